//! Leads that become an account, a contact and an opportunity. Source: SOAP API guide, `convertLead()`.

use chrono::{Datelike as _, Months, NaiveDate};
use serde_json::{Map, Value, json};

use crate::error::{Answered, ApiError};
use crate::events::{ChangeKind, Changed};
use crate::id;
use crate::schema::Object;
use crate::store::{Store, malformed_id, quoted};

/// The status of leads that were converted.
const CONVERTED: &str = "Closed - Converted";
/// Fields of a lead, with those of an account and of a contact that they become.
const BECOMES: [(&str, &str, &str); 21] = [
    ("Company", "Name", ""),
    ("Salutation", "", "Salutation"),
    ("FirstName", "", "FirstName"),
    ("LastName", "", "LastName"),
    ("Title", "", "Title"),
    ("Phone", "Phone", "Phone"),
    ("MobilePhone", "", "MobilePhone"),
    ("Fax", "Fax", "Fax"),
    ("Email", "", "Email"),
    ("Website", "Website", ""),
    ("Description", "", "Description"),
    ("LeadSource", "AccountSource", "LeadSource"),
    ("Industry", "Industry", ""),
    ("Rating", "Rating", ""),
    ("AnnualRevenue", "AnnualRevenue", ""),
    ("NumberOfEmployees", "NumberOfEmployees", ""),
    ("Street", "BillingStreet", "MailingStreet"),
    ("City", "BillingCity", "MailingCity"),
    ("State", "BillingState", "MailingState"),
    ("PostalCode", "BillingPostalCode", "MailingPostalCode"),
    ("Country", "BillingCountry", "MailingCountry"),
];

/// What is asked for.
#[derive(Debug, Default)]
pub(crate) struct Conversion {
    pub(crate) lead: String,
    pub(crate) status: String,
    /// An account and a contact that are there already.
    pub(crate) account: Option<String>,
    pub(crate) contact: Option<String>,
    /// The name of the opportunity, where it is to have another than usual.
    pub(crate) opportunity: Option<String>,
    pub(crate) without_opportunity: bool,
    pub(crate) overwrite_source: bool,
    pub(crate) owner: Option<String>,
}

/// The records that a lead became.
#[derive(Debug)]
pub(crate) struct Converted {
    pub(crate) account: String,
    pub(crate) contact: String,
    pub(crate) opportunity: Option<String>,
}

impl Store<'_> {
    /// Returns the fields of a record that are not empty, as the API tells them.
    fn held(&self, object: &Object, id: &str) -> Answered<Map<String, Value>> {
        let fields: Vec<_> = object.stored().collect();
        let columns: Vec<String> = fields.iter().map(|field| quoted(&field.name)).collect();
        let sql =
            format!("SELECT {} FROM {} WHERE \"Id\"=? AND \"IsDeleted\"=0", columns.join(","), quoted(&object.name));
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut rows = statement.query([id])?;
        let row = rows.next()?.ok_or_else(|| malformed_id(id))?;
        let mut held = Map::new();
        for (at, field) in fields.iter().enumerate() {
            let value = crate::value::json(field.kind, row.get_ref(at)?);
            if !value.is_null() {
                held.insert(field.name.clone(), value);
            }
        }
        Ok(held)
    }

    /// True for a lead that became something else.
    pub(crate) fn is_converted(&self, id: &str) -> Answered<bool> {
        let sql = "SELECT 1 FROM \"Lead\" WHERE \"Id\"=? AND \"IsConverted\"=1";
        Ok(self.connection.prepare_cached(sql)?.exists([id])?)
    }

    /// Converts a lead.
    pub(crate) fn convert_lead(&mut self, asked: &Conversion) -> Answered<Converted> {
        let refused = |code: &str, message: String| Err(ApiError::new(400, code, message));
        let object = |name: &str| self.schema.object(name).ok_or_else(ApiError::not_found);
        let [lead_object, account_object, contact_object, opportunity_object] =
            [object("Lead")?, object("Account")?, object("Contact")?, object("Opportunity")?];
        let lead_id = id::normal(&asked.lead).ok_or_else(|| malformed_id(&asked.lead))?;
        let lead = self.held(lead_object, &lead_id)?;
        if self.is_converted(&lead_id)? {
            return refused("CANNOT_UPDATE_CONVERTED_LEAD", "cannot reference converted lead".to_owned());
        }
        if asked.status != CONVERTED {
            return refused("INVALID_STATUS", format!("invalid convertedStatus: {}", asked.status));
        }
        if asked.contact.is_some() && asked.account.is_none() {
            let message = "accountId must be specified with contactId";
            return refused("REQUIRED_FIELD_MISSING", message.to_owned());
        }
        let owner = asked.owner.clone().or_else(|| lead.get("OwnerId")?.as_str().map(str::to_owned));
        let values = |side: fn(&(&str, &'static str, &'static str)) -> &'static str, known: &Map<String, Value>| {
            let mut values = Map::new();
            for entry in &BECOMES {
                // What is there already stays.
                if let (name, Some(value)) = (side(entry), lead.get(entry.0))
                    && !name.is_empty()
                    && !known.contains_key(name)
                {
                    values.insert(name.to_owned(), value.clone());
                }
            }
            values
        };
        let own = |mut values: Map<String, Value>| {
            values.extend(owner.clone().map(|owner| ("OwnerId".to_owned(), json!(owner))));
            values
        };
        let account = if let Some(account) = &asked.account {
            let known = self.held(account_object, account)?;
            self.update(account_object, account, &values(|entry| entry.1, &known))?;
            account.clone()
        } else {
            self.insert(account_object, &own(values(|entry| entry.1, &Map::new())))?
        };
        let contact = if let Some(contact) = &asked.contact {
            let mut known = self.held(contact_object, contact)?;
            if asked.overwrite_source {
                known.remove("LeadSource");
            }
            self.update(contact_object, contact, &values(|entry| entry.2, &known))?;
            contact.clone()
        } else {
            let mut fields = own(values(|entry| entry.2, &Map::new()));
            fields.insert("AccountId".to_owned(), json!(account));
            self.insert(contact_object, &fields)?
        };
        let opportunity = if asked.without_opportunity {
            None
        } else {
            let company = lead.get("Company").and_then(Value::as_str).unwrap_or_default();
            let name = asked.opportunity.clone().unwrap_or_else(|| format!("{company}-"));
            let stage = opportunity_object.field("StageName").and_then(|field| field.values.first());
            let mut fields = own(Map::new());
            fields.insert("Name".to_owned(), json!(name));
            fields.insert("AccountId".to_owned(), json!(account));
            fields.insert("ContactId".to_owned(), json!(contact));
            fields.insert("StageName".to_owned(), json!(stage.map(|stage| stage.value.as_str())));
            fields.insert("CloseDate".to_owned(), json!(self.end_of_quarter().to_string()));
            fields.extend(lead.get("LeadSource").map(|source| ("LeadSource".to_owned(), source.clone())));
            Some(self.insert(opportunity_object, &fields)?)
        };
        // The lead itself says what became of it; nobody may write that.
        let sql = "UPDATE \"Lead\" SET \"IsConverted\"=1, \"ConvertedDate\"=?1, \"ConvertedAccountId\"=?2, \"ConvertedContactId\"=?3,
                          \"ConvertedOpportunityId\"=?4, \"Status\"=?5, \"LastModifiedDate\"=?6, \"SystemModstamp\"=?6,
                          \"LastModifiedById\"=?7 WHERE \"Id\"=?8";
        let day = self.now.get(..10).unwrap_or_default();
        let values = rusqlite::params![day, account, contact, opportunity, CONVERTED, self.now, self.user, lead_id];
        self.connection.prepare_cached(sql)?.execute(values)?;
        let names = ["Status", "IsConverted", "ConvertedDate", "ConvertedAccountId", "ConvertedContactId"];
        let last = opportunity.as_ref().map(|_| "ConvertedOpportunityId");
        let changed: Vec<Changed> = names.into_iter().chain(last).map(|name| Changed::whole(name.to_owned())).collect();
        self.note(lead_object, &lead_id, ChangeKind::Update, &changed)?;
        Ok(Converted { account, contact, opportunity })
    }

    /// Returns the last day of the quarter by the org's clock, on which a new opportunity closes.
    fn end_of_quarter(&self) -> NaiveDate {
        let today = crate::value::parse_datetime(&self.now).unwrap_or_default().date_naive();
        let first = NaiveDate::from_ymd_opt(today.year(), today.month0() / 3 * 3 + 1, 1).unwrap_or(today);
        first.checked_add_months(Months::new(3)).and_then(|next| next.pred_opt()).unwrap_or(today)
    }
}
