//! agent/source
