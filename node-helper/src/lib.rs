//! The privileged half of the product.
