//! Endpoints for applications: Salesforce.

pub mod salesforce;

/// Returns the kinds of connection that live here. A new one gets a line.
pub fn kinds() -> Vec<endpoint::Kind> {
    vec![salesforce::KIND]
}
