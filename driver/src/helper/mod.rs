//! Client of the node-helper.
