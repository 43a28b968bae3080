//! The state store: runs, checkpoints, links, dead letters, audit.
