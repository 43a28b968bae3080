//! Endpoints for databases and files.
