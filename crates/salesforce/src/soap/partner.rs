//! The calls of the partner API that REST does not have.

use serde_json::{Map, Value};

use super::{Element, Service};
use crate::client::Client;
use crate::collections::Saved;
use crate::error::{ApiError, Error};

/// A lead that becomes an account, a contact and, unless it is not wanted, an opportunity.
#[derive(Debug, Clone, Default)]
pub struct LeadConversion {
    /// The lead's id.
    pub lead: String,
    /// Its new state: one that means converted.
    pub status: String,
    /// The account that it joins; a new one if `None`.
    pub account: Option<String>,
    /// The contact that it is merged into; a new one if `None`.
    pub contact: Option<String>,
    /// The owner of what is new; the lead's if `None`.
    pub owner: Option<String>,
    /// The opportunity's name; none is made if `None`.
    pub opportunity: Option<String>,
    /// Overwrite the contact's lead source.
    pub overwrite_lead_source: bool,
}

/// What became of a lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Converted {
    /// The lead's id.
    pub lead: String,
    /// The account.
    pub account: Option<String>,
    /// The contact.
    pub contact: Option<String>,
    /// The opportunity.
    pub opportunity: Option<String>,
    /// The reasons of a refusal; empty where it was converted.
    pub errors: Vec<ApiError>,
}

/// What became of a merge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    /// The record that is left.
    pub id: Option<String>,
    /// The records that are gone.
    pub merged: Vec<String>,
    /// The children that hang on the record that is left now.
    pub updated: Vec<String>,
    /// The reasons of a refusal; empty where they were merged.
    pub errors: Vec<ApiError>,
}

fn errors(result: &Element) -> Vec<ApiError> {
    let error = |node: &Element| ApiError {
        code: node.value("statusCode").unwrap_or_default().to_owned(),
        message: node.value("message").unwrap_or_default().to_owned(),
        fields: node.all("fields").map(|field| field.content.clone()).collect(),
    };
    result.all("errors").map(error).collect()
}

fn saved(result: &Element) -> Saved {
    Saved {
        id: result.value("id").map(str::to_owned),
        success: result.value("success") == Some("true"),
        created: result.value("created") == Some("true"),
        errors: errors(result),
    }
}

/// Writes a record: its type first, then what it has; what is null is named as such.
fn record(name: &str, object: &str, fields: &Map<String, Value>) -> Element {
    let mut element = Element::new(name).with(Element::text("o:type", object));
    for (field, _) in fields.iter().filter(|(_, value)| value.is_null()) {
        element = element.with(Element::text("o:fieldsToNull", field));
    }
    for (field, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        element = element.with(Element::text(format!("o:{field}"), text));
    }
    element
}

impl Client {
    /// Returns the partner API of the org.
    pub fn partner(&self) -> Service {
        Service {
            path: format!("/services/Soap/u/{}", self.settings().version),
            namespace: "urn:partner.soap.sforce.com".to_owned(),
            records: Some("urn:sobject.partner.soap.sforce.com".to_owned()),
        }
    }

    async fn partner_call(&self, call: Element) -> Result<Element, Error> {
        self.soap(&self.partner(), &call).await
    }

    /// Merges up to two records into a third, which takes `fields`.
    ///
    /// # Errors
    ///
    /// No answer, or a fault; a refusal of the merge is in what is returned.
    pub async fn merge(
        &self,
        object: &str,
        id: &str,
        fields: &Map<String, Value>,
        losers: &[&str],
    ) -> Result<Merged, Error> {
        let mut master = Map::from_iter([("Id".to_owned(), Value::from(id))]);
        master.extend(fields.clone());
        let request = Element::new("request")
            .with(record("masterRecord", object, &master))
            .with_all(losers.iter().map(|loser| Element::text("recordToMergeIds", *loser)));
        let answer = self.partner_call(Element::new("merge").with(request)).await?;
        let result = answer.child("result").cloned().unwrap_or_default();
        let ids = |name: &str| result.all(name).map(|node| node.content.clone()).collect();
        Ok(Merged {
            id: result.value("id").map(str::to_owned),
            merged: ids("mergedRecordIds"),
            updated: ids("updatedRelatedIds"),
            errors: errors(&result),
        })
    }

    /// Converts leads, up to 100; returns what became of each, in their order.
    ///
    /// # Errors
    ///
    /// No answer, or a fault.
    pub async fn convert_leads(&self, leads: &[LeadConversion]) -> Result<Vec<Converted>, Error> {
        let converts = leads.iter().map(|lead| {
            let optional = |name: &str, value: &Option<String>| value.as_ref().map(|value| Element::text(name, value));
            let none = lead.opportunity.is_none().to_string();
            // In the order of the WSDL.
            let parts = [
                optional("accountId", &lead.account),
                optional("contactId", &lead.contact),
                Some(Element::text("convertedStatus", &lead.status)),
                Some(Element::text("doNotCreateOpportunity", none)),
                Some(Element::text("leadId", &lead.lead)),
                optional("opportunityName", &lead.opportunity),
                Some(Element::text("overwriteLeadSource", lead.overwrite_lead_source.to_string())),
                optional("ownerId", &lead.owner),
                Some(Element::text("sendNotificationEmail", "false")),
            ];
            Element::new("leadConverts").with_all(parts.into_iter().flatten())
        });
        let answer = self.partner_call(Element::new("convertLead").with_all(converts)).await?;
        let converted = |result: &Element| {
            let id = |name: &str| result.value(name).filter(|id| !id.is_empty()).map(str::to_owned);
            Converted {
                lead: id("leadId").unwrap_or_default(),
                account: id("accountId"),
                contact: id("contactId"),
                opportunity: id("opportunityId"),
                errors: errors(result),
            }
        };
        Ok(answer.all("result").map(converted).collect())
    }

    /// Brings records back from the recycle bin, up to 200; returns what became of each, in their order.
    ///
    /// # Errors
    ///
    /// No answer, or a fault.
    pub async fn undelete(&self, ids: &[&str]) -> Result<Vec<Saved>, Error> {
        self.by_ids("undelete", ids).await
    }

    /// Removes records from the recycle bin for good, up to 200; returns what became of each, in their order.
    ///
    /// # Errors
    ///
    /// No answer, or a fault.
    pub async fn empty_recycle_bin(&self, ids: &[&str]) -> Result<Vec<Saved>, Error> {
        self.by_ids("emptyRecycleBin", ids).await
    }

    async fn by_ids(&self, call: &str, ids: &[&str]) -> Result<Vec<Saved>, Error> {
        let call = Element::new(call).with_all(ids.iter().map(|id| Element::text("ids", *id)));
        Ok(self.partner_call(call).await?.all("result").map(saved).collect())
    }

    /// Gives a user a password.
    ///
    /// # Errors
    ///
    /// No answer, or a fault, such as of a password that is too plain.
    pub async fn set_password(&self, user: &str, password: &secrecy::SecretString) -> Result<(), Error> {
        use secrecy::ExposeSecret as _;
        let call = Element::new("setPassword")
            .with(Element::text("userId", user))
            .with(Element::text("password", password.expose_secret()));
        self.partner_call(call).await.map(drop)
    }

    /// Gives a user a password that the org makes up, and returns it.
    ///
    /// # Errors
    ///
    /// No answer, or a fault.
    pub async fn reset_password(&self, user: &str) -> Result<secrecy::SecretString, Error> {
        let answer = self.partner_call(Element::new("resetPassword").with(Element::text("userId", user))).await?;
        let password = answer.child("result").and_then(|result| result.value("password")).unwrap_or_default();
        Ok(password.to_owned().into())
    }
}
