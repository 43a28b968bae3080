//! Endpoints for applications: Salesforce.

pub mod salesforce;
