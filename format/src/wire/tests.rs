//! Each message survives the wire, and no bytes make a decoder panic.
