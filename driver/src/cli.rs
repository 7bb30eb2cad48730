//! Command line of `tns-csi`: subcommands, flags and their environment variables.
