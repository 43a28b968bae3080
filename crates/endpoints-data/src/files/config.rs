//! The configuration of a connection to files.

use std::collections::BTreeMap;
use std::sync::Arc;

use endpoint::{Endpoint, Error, Kind, Result, Setup, configuration};
use model::Class;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use schemars::JsonSchema;
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use url::Url;

use super::{Dialect, Files};

/// Files, as a kind of connection.
pub const KIND: Kind = Kind::new::<FilesConfig>(
    "files",
    "CSV, NDJSON and Parquet files, plain or compressed (gz, zst), in a folder or an object store.",
    |value, setup| configuration::<FilesConfig>(value)?.open(setup),
);

/// A folder of files. An entity is a file, such as `customers.csv.gz`, or a pattern, such as `orders/*.parquet`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FilesConfig {
    /// A folder, relative to the project, or an address such as `s3://bucket/prefix`, `gs://`, `az://`, `https://`.
    pub url: String,
    /// Settings of the object store by their usual names, such as `region`, `endpoint` or `access_key_id`.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Secret settings of the object store, by reference, such as `secret_access_key: ${env:AWS_SECRET}`.
    #[serde(default)]
    pub secrets: BTreeMap<String, String>,
    /// What separates the columns of CSV files: one character.
    #[serde(default = "FilesConfig::default_delimiter")]
    pub delimiter: char,
    /// Text that stands for null in CSV files. With the default, an empty text and null are the same.
    #[serde(default)]
    pub null: String,
}

impl FilesConfig {
    fn default_delimiter() -> char {
        ','
    }

    fn open(self, setup: &Setup<'_>) -> Result<Arc<dyn Endpoint>> {
        let wrong = |message: String| Error::new(Class::Mapping, message);
        let delimiter = u8::try_from(self.delimiter)
            .ok()
            .filter(|byte| byte.is_ascii() && !matches!(byte, b'"' | b'\n' | b'\r'))
            .ok_or_else(|| wrong(format!("{:?} can't separate columns: give one ASCII character", self.delimiter)))?;
        let dialect = Dialect { delimiter, null: self.null };
        let text = setup.references.resolve(&self.url)?;
        if !text.contains("://") {
            let folder = setup.folder.join(&text);
            std::fs::create_dir_all(&folder)
                .map_err(|error| wrong(format!("the folder {} can't be used", folder.display())).caused_by(error))?;
            let store = LocalFileSystem::new_with_prefix(&folder)
                .map_err(|error| wrong(format!("the folder {} can't be used", folder.display())).caused_by(error))?
                .with_automatic_cleanup(true);
            return Ok(Arc::new(Files::new(Arc::new(store), folder.display().to_string(), dialect)));
        }
        let url = Url::parse(&text).map_err(|error| wrong("the url can't be read".to_owned()).caused_by(error))?;
        if url.password().is_some() {
            return Err(wrong("the url holds a secret; give it under `secrets`, by reference".to_owned()));
        }
        let mut options: Vec<(String, String)> = self.options.into_iter().collect();
        for (name, reference) in &self.secrets {
            options.push((name.clone(), setup.references.secret(reference)?.expose_secret().to_owned()));
        }
        let (store, prefix) = object_store::parse_url_opts(&url, options)
            .map_err(|error| wrong(format!("{} can't be used", place(&url))).caused_by(error))?;
        let store: Arc<dyn object_store::ObjectStore> =
            if prefix == Path::default() { Arc::from(store) } else { Arc::new(PrefixStore::new(store, prefix)) };
        Ok(Arc::new(Files::new(store, place(&url), dialect)))
    }
}

/// The address without what may hold secrets.
fn place(url: &Url) -> String {
    format!("{}://{}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
}
