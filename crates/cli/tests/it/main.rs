//! The whole program: the binary, the sandbox, real databases.

mod automation;
mod bench;
mod brokers;
mod crash;
mod deploy;
mod derived;
mod faults;
mod follow;
mod log_capture;
mod pairing;
mod projects;
mod reconcile;
mod remote;
mod runs;
mod sandbox;
mod secrets;
mod serve;
mod telemetry;
mod two_way;
mod two_way_crowd;
mod undo;
