//! agent/swarm
