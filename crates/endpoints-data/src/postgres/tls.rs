//! Encrypted connections: the server's certificate is always checked.

use std::path::Path;
use std::sync::Arc;

use endpoint::{Error, Result};
use model::Class;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::ConfigVerifierExt as _;
use tokio_postgres_rustls::MakeRustlsConnect;

/// Returns what makes connections encrypted, trusting the certificates in a file or else the system's.
pub(crate) fn connector(authority: Option<&Path>) -> Result<MakeRustlsConnect> {
    // Fails only when one is installed already, which is what we want.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let Some(path) = authority else {
        let config = ClientConfig::with_platform_verifier()
            .map_err(|error| Error::new(Class::Internal, "TLS cannot be set up").caused_by(error))?;
        return Ok(MakeRustlsConnect::new(config));
    };
    let unusable = |error: endpoint::BoxError| {
        Error::new(Class::Mapping, format!("{} holds no certificates that can be used", path.display()))
            .caused_by(error)
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| unusable(error.into()))? {
        let certificate = certificate.map_err(|error| unusable(error.into()))?;
        roots.add(certificate).map_err(|error| unusable(error.into()))?;
    }
    if roots.is_empty() {
        return Err(unusable("the file has none".into()));
    }
    let config = ClientConfig::builder().with_root_certificates(Arc::new(roots)).with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}
