//! agent/device
