//! A stand-in TrueNAS appliance.
