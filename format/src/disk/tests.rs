//! The merged device, read in all ways.
