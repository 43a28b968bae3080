//! What an org is made of: which types of metadata, which components, and what they say.

use super::{Element, Service};
use crate::client::Client;
use crate::error::Error;

/// Components that are read in one call. Source: Metadata API Developer Guide, `readMetadata()`.
const READ: usize = 10;

/// A type of metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetadataType {
    /// Its name, such as `CustomObject`.
    pub name: String,
    /// Its folder in a package.
    pub folder: String,
    /// The ending of its files, without the dot; `None` for folders of files.
    pub suffix: Option<String>,
    /// Types of its parts, such as `CustomField`.
    pub parts: Vec<String>,
}

/// A component as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    /// Its type.
    pub of: String,
    /// Its full name, such as `Order__c.Status__c`.
    pub name: String,
    /// Who changed it last.
    pub modified_by: String,
    /// When, as the org says it.
    pub modified: String,
}

impl Client {
    /// Returns the Metadata API of the org.
    pub fn metadata(&self) -> Service {
        Service {
            path: format!("/services/Soap/m/{}", self.settings().version),
            namespace: "http://soap.sforce.com/2006/04/metadata".to_owned(),
            records: None,
        }
    }

    /// Returns the types of metadata that the org has.
    ///
    /// # Errors
    ///
    /// No answer, or a fault, such as of a user who may not.
    pub async fn metadata_types(&self) -> Result<Vec<MetadataType>, Error> {
        let call = Element::new("describeMetadata").with(Element::text("asOfVersion", &self.settings().version));
        let answer = self.soap(&self.metadata(), &call).await?;
        let text = |node: &Element, name: &str| node.value(name).map(str::to_owned);
        let types = answer.children.iter().flat_map(|result| result.all("metadataObjects"));
        Ok(types
            .map(|node| MetadataType {
                name: text(node, "xmlName").unwrap_or_default(),
                folder: text(node, "directoryName").unwrap_or_default(),
                suffix: text(node, "suffix"),
                parts: node.all("childXmlNames").map(|part| part.content.clone()).collect(),
            })
            .collect())
    }

    /// Returns the components of a type.
    ///
    /// # Errors
    ///
    /// No answer, or a fault, such as of a type that the org does not have.
    pub async fn list_metadata(&self, of: &str) -> Result<Vec<Component>, Error> {
        let call = Element::new("listMetadata")
            .with(Element::new("queries").with(Element::text("type", of)))
            .with(Element::text("asOfVersion", &self.settings().version));
        let answer = self.soap(&self.metadata(), &call).await?;
        let text = |node: &Element, name: &str| node.value(name).unwrap_or_default().to_owned();
        Ok(answer
            .all("result")
            .map(|node| Component {
                of: text(node, "type"),
                name: text(node, "fullName"),
                modified_by: text(node, "lastModifiedByName"),
                modified: text(node, "lastModifiedDate"),
            })
            .collect())
    }

    /// Reads components of a type by their full names; those that are not there are left out.
    ///
    /// # Errors
    ///
    /// No answer, or a fault.
    pub async fn read_metadata(&self, of: &str, names: &[&str]) -> Result<Vec<Element>, Error> {
        let mut found = Vec::new();
        for names in names.chunks(READ) {
            let call = Element::new("readMetadata")
                .with(Element::text("type", of))
                .with_all(names.iter().map(|name| Element::text("fullNames", *name)));
            let answer = self.soap(&self.metadata(), &call).await?;
            let records = answer.children.into_iter().flat_map(|result| result.children);
            found.extend(records.filter(|record| !record.nil && record.child("fullName").is_some()));
        }
        Ok(found)
    }
}
