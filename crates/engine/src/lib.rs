//! Syncs: plan, read, map, write, commit.
