//! The configuration of a PostgreSQL connection.

use std::path::PathBuf;
use std::sync::Arc;

use endpoint::{Endpoint, Kind, Result, Setup, configuration};
use schemars::JsonSchema;
use serde::Deserialize;

use tokio_postgres_rustls::MakeRustlsConnect;

use super::Postgres;
use crate::tls::{self, Tls};

/// PostgreSQL, as a kind of connection.
pub const KIND: Kind =
    Kind::new::<PostgresConfig>("postgres", "A PostgreSQL database, by COPY both ways.", |value, setup| {
        configuration::<PostgresConfig>(value)?.open(setup)
    });

/// A PostgreSQL database.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PostgresConfig {
    /// Server and database, such as `postgres://bridge@db.example.com/erp`.
    pub url: String,
    /// The password, by reference.
    #[serde(default)]
    pub password: Option<String>,
    /// Whether the connection is encrypted.
    #[serde(default)]
    pub tls: Tls,
    /// Certificates (PEM) to trust instead of the system's, such as that of a company's own authority.
    #[serde(default)]
    pub tls_ca: Option<PathBuf>,
}

impl PostgresConfig {
    fn open(self, setup: &Setup<'_>) -> Result<Arc<dyn Endpoint>> {
        let references = setup.references;
        let password = self.password.map(|text| references.secret(&text)).transpose()?;
        let mut postgres = Postgres::new(
            &references.resolve(&self.url)?,
            password.as_ref().map(secrecy::ExposeSecret::expose_secret),
        )?;
        if self.tls.is_needed(postgres.is_local()) {
            let authority = self.tls_ca.map(|path| setup.folder.join(path));
            postgres = postgres.encrypted(MakeRustlsConnect::new(tls::client_config(authority.as_deref())?));
        }
        Ok(Arc::new(postgres))
    }
}
