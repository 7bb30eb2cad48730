//! Lab scenarios.

fn main() {}
