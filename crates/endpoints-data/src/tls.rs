//! Encrypted connections: the server's certificate is always checked.

use std::path::Path;
use std::sync::Arc;

use endpoint::{Error, Result};
use model::Class;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::ConfigVerifierExt as _;
use schemars::JsonSchema;
use serde::de::Visitor;
use serde::{Deserialize, Deserializer};

/// Whether a connection is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum Tls {
    /// Always, except to this very machine.
    #[default]
    Remote,
    /// Always; the server's certificate is checked.
    Require,
    /// Never: only for networks that nobody else can listen to.
    Off,
}

impl<'d> Deserialize<'d> for Tls {
    fn deserialize<D: Deserializer<'d>>(value: D) -> std::result::Result<Self, D::Error> {
        value.deserialize_any(Word)
    }
}

/// Reads it. YAML takes the word `off` for a boolean.
struct Word;

impl Visitor<'_> for Word {
    type Value = Tls;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("remote, require or off")
    }

    fn visit_str<E: serde::de::Error>(self, word: &str) -> std::result::Result<Tls, E> {
        match word {
            "remote" => Ok(Tls::Remote),
            "require" => Ok(Tls::Require),
            "off" => Ok(Tls::Off),
            _ => Err(E::invalid_value(serde::de::Unexpected::Str(word), &self)),
        }
    }

    fn visit_bool<E: serde::de::Error>(self, on: bool) -> std::result::Result<Tls, E> {
        Ok(if on { Tls::Require } else { Tls::Off })
    }
}

impl Tls {
    /// True when connections to a host have to be encrypted.
    pub(crate) fn is_needed(self, is_local: bool) -> bool {
        self == Self::Require || (self == Self::Remote && !is_local)
    }
}

/// True when a host is this machine, so that nobody can listen in between.
pub(crate) fn is_local(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

/// True when a connection failed because nobody vouches for the server: time does not mend that, a setting does. Drivers wrap
/// what rustls says in errors of their own, each in another way; its words stay.
pub(crate) fn is_stranger(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source())
        .any(|error| error.to_string().contains("invalid peer certificate"))
}

/// Returns how connections are encrypted, trusting the certificates in a file or else the system's.
pub(crate) fn client_config(authority: Option<&Path>) -> Result<ClientConfig> {
    // Fails only when one is installed already, which is what we want.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let Some(path) = authority else {
        return ClientConfig::with_platform_verifier()
            .map_err(|error| Error::new(Class::Internal, "TLS cannot be set up").caused_by(error));
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
    Ok(ClientConfig::builder().with_root_certificates(Arc::new(roots)).with_no_client_auth())
}
