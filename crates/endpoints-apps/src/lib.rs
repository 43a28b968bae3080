//! Endpoints for applications: Salesforce.
