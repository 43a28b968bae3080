//! The org as its administrator set it up: apps, users, permissions, rules. Read from YAML.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::automation::Automation;
use crate::org::StartError;
use crate::sharing::Model;

/// How an org is set up. Everything has a default: an empty file is an org with one administrator and one app.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Definition {
    /// The organization itself.
    pub organization: Organization,
    /// Apps that may sign in, besides the one the sandbox is started with.
    pub apps: Vec<App>,
    /// Users, besides the administrator.
    pub users: Vec<User>,
    /// Profiles, besides "System Administrator", by name.
    pub profiles: BTreeMap<String, Permissions>,
    /// Permission sets, by name.
    pub permission_sets: BTreeMap<String, Permissions>,
    /// Roles by name, each with the role above it.
    pub roles: BTreeMap<String, Option<String>>,
    /// For objects who sees and changes the records of others, in the place of what their metadata says.
    pub sharing: BTreeMap<String, Model>,
    /// Rules against duplicates.
    pub duplicate_rules: Vec<DuplicateRule>,
    /// What happens when records are saved, in the place of flows and triggers.
    pub automation: Vec<Automation>,
    /// Objects whose changes are published as events, besides those that a project selects; `*` for all.
    pub change_data_capture: Vec<String>,
    /// Channels of one's own, besides those of a project.
    pub platform_event_channels: Vec<EventChannel>,
    /// Subscriptions whose position the org keeps.
    pub managed_event_subscriptions: Vec<ManagedSubscription>,
    /// Record locks.
    pub locks: Locks,
    /// Bulk jobs.
    pub bulk: Bulk,
    /// Endpoints below `/services/apexrest`.
    pub apex_rest: Vec<Endpoint>,
    /// Classes below `/services/Soap/class`.
    pub apex_soap: Vec<WebService>,
    /// Invocable actions.
    pub actions: Vec<Action>,
}

/// The organization itself.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Organization {
    /// Its name.
    pub name: String,
    /// First month of the fiscal year, from 1.
    pub fiscal_year_start_month: u32,
    /// The administrator's time zone, such as `Europe/Berlin`.
    pub time_zone: String,
    /// The administrator's password, for the sign-in page and the password flow.
    pub admin_password: String,
    /// Whether the username-password flow is on; in orgs made since Summer '23 it is off.
    pub password_flow: bool,
    /// Whether accounts may be persons.
    pub person_accounts: bool,
    /// Whether SOAP `login()` is on; orgs switch it off by the summer of 2027 at the latest.
    pub soap_login: bool,
}

impl Default for Organization {
    fn default() -> Self {
        Self {
            name: "Sandbox".to_owned(),
            fiscal_year_start_month: 1,
            time_zone: "UTC".to_owned(),
            admin_password: "sandbox-password".to_owned(),
            password_flow: false,
            person_accounts: false,
            soap_login: true,
        }
    }
}

/// A channel that carries several events.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventChannel {
    /// Its name, such as `Sales__chn`.
    pub name: String,
    /// What it carries.
    pub members: Vec<EventChannelMember>,
}

/// An event that a channel carries.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventChannelMember {
    /// Its name, such as `AccountChangeEvent` or `Order_Placed__e`.
    pub event: String,
    /// Fields that change events have on this channel though they did not change.
    #[serde(default)]
    pub enriched_fields: Vec<String>,
    /// A condition on its fields, as behind `WHERE`: the channel carries only what meets it.
    #[serde(default)]
    pub filter: Option<String>,
}

/// A managed event subscription.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManagedSubscription {
    /// Its developer name.
    pub name: String,
    /// Its topic, such as `/data/AccountChangeEvent`.
    pub topic: String,
    /// Whether it begins with the oldest event before anything is committed; else with the next one.
    #[serde(default)]
    pub earliest: bool,
}

/// An external client app or connected app.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct App {
    /// Its name, as the consent page and the limits header show it.
    pub name: String,
    /// Consumer key.
    pub client_id: String,
    /// Consumer secret.
    pub client_secret: String,
    /// Whether the token endpoint asks for the secret; public clients have none.
    pub secret_required: bool,
    /// Addresses that a code may be sent to.
    pub callbacks: Vec<String>,
    /// Scopes that it may ask for.
    pub scopes: Vec<String>,
    /// Flows that are on.
    pub flows: Vec<Flow>,
    /// Whether a code needs a proof key.
    pub pkce_required: bool,
    /// Username that client credentials sign in as.
    pub run_as: Option<String>,
    /// Public key or certificate (PEM) of JWT bearer assertions.
    pub public_key: Option<String>,
    /// Minutes without use after which a session ends.
    pub session_minutes: i64,
    /// What becomes of refresh tokens.
    pub refresh: Refresh,
    /// Addresses that may sign in, such as `10.0.0.0-10.0.0.255`; any if empty.
    pub ip_ranges: Vec<String>,
    /// Whether only users of these profiles and permission sets may use it.
    pub approved: Option<Vec<String>>,
    /// Whether it may introspect tokens of other apps.
    pub introspect_all: bool,
    /// Whether it is blocked.
    pub blocked: bool,
}

impl Default for App {
    fn default() -> Self {
        Self {
            name: "App".to_owned(),
            client_id: String::new(),
            client_secret: String::new(),
            secret_required: true,
            callbacks: Vec::new(),
            scopes: ["api", "refresh_token", "id", "openid", "profile", "email"].map(str::to_owned).into(),
            flows: vec![Flow::AuthorizationCode, Flow::RefreshToken, Flow::JwtBearer, Flow::ClientCredentials],
            pkce_required: false,
            run_as: None,
            public_key: None,
            session_minutes: 120,
            refresh: Refresh::default(),
            ip_ranges: Vec::new(),
            approved: None,
            introspect_all: false,
            blocked: false,
        }
    }
}

/// A way to sign in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flow {
    /// Code, with or without proof key.
    AuthorizationCode,
    /// Refresh token.
    RefreshToken,
    /// Signed assertion.
    JwtBearer,
    /// Key and secret alone.
    ClientCredentials,
    /// Username and password.
    Password,
    /// Token of another issuer, taken for a user's by its subject.
    TokenExchange,
    /// Token in the fragment of the callback.
    UserAgent,
}

/// What becomes of refresh tokens.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Refresh {
    /// Whether each use replaces the token; showing an old one again then ends the whole family.
    pub rotation: bool,
    /// Minutes without use after which a token ends; never if absent.
    pub idle_minutes: Option<i64>,
    /// Minutes after its first issue that a token ends; never if absent.
    pub lifetime_minutes: Option<i64>,
}

impl Default for Refresh {
    fn default() -> Self {
        Self { rotation: true, idle_minutes: None, lifetime_minutes: None }
    }
}

/// A user.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// The name to sign in with.
    pub username: String,
    /// Password for the sign-in page and the password flow; none means that they are closed to the user.
    pub password: Option<String>,
    /// First name.
    pub first_name: Option<String>,
    /// Last name; the username if absent.
    pub last_name: Option<String>,
    /// Address; the username if absent.
    pub email: Option<String>,
    /// Profile, by name.
    #[serde(default = "User::default_profile")]
    pub profile: String,
    /// Permission sets, by name.
    #[serde(default)]
    pub permission_sets: Vec<String>,
    /// Role, by name.
    #[serde(default)]
    pub role: Option<String>,
    /// Time zone, such as `America/New_York`.
    #[serde(default = "User::default_time_zone")]
    pub time_zone: String,
    /// Whether the user may sign in.
    #[serde(default = "User::default_active")]
    pub active: bool,
}

impl User {
    fn default_profile() -> String {
        "System Administrator".to_owned()
    }

    fn default_time_zone() -> String {
        "UTC".to_owned()
    }

    fn default_active() -> bool {
        true
    }
}

/// What a profile or permission set gives.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Permissions {
    /// For each object what may be done with it: any of `create`, `read`, `edit`, `delete`. Objects that are not
    /// named can't be seen.
    pub objects: BTreeMap<String, Vec<Right>>,
    /// For each `Object.Field` whether it is hidden, read or edited. Fields that are not named are as their object is,
    /// unless `unlisted_fields` says otherwise.
    pub fields: BTreeMap<String, FieldAccess>,
    /// What holds for custom fields that are not named.
    pub unlisted_fields: Option<FieldAccess>,
    /// Permissions of the user as such: `ModifyAllData`, `BulkApiHardDelete`.
    pub user_permissions: Vec<String>,
}

/// A right to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Right {
    /// Make records.
    Create,
    /// See records.
    Read,
    /// Change records.
    Edit,
    /// Delete records.
    Delete,
}

/// What may be done with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FieldAccess {
    /// It is absent.
    Hidden,
    /// It is seen.
    Read,
    /// It is seen and changed.
    Edit,
}

/// A rule against duplicates.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DuplicateRule {
    /// Developer name.
    pub name: String,
    /// Object whose records it compares.
    pub object: String,
    /// Fields that must all be alike: without case, spaces and punctuation.
    pub fields: Vec<String>,
    /// What happens to a duplicate.
    #[serde(default)]
    pub action: DuplicateAction,
    /// What the refusal says.
    #[serde(default = "DuplicateRule::default_alert")]
    pub alert: String,
}

impl DuplicateRule {
    fn default_alert() -> String {
        "Use one of these records?".to_owned()
    }
}

/// What happens to a duplicate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DuplicateAction {
    /// Refused, unless the call insists.
    #[default]
    Alert,
    /// Refused.
    Block,
}

/// Record locks.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Locks {
    /// Milliseconds that a write holds its records and their parents: how long a transaction takes.
    pub hold_ms: u64,
    /// Milliseconds that another write waits for them.
    pub wait_ms: u64,
}

impl Default for Locks {
    fn default() -> Self {
        Self { hold_ms: 0, wait_ms: 10_000 }
    }
}

/// Bulk jobs.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bulk {
    /// Rows that a job works on in a second; as fast as it goes if absent.
    pub rows_per_second: Option<u64>,
}

/// An Apex REST endpoint.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// Path below `/services/apexrest`; `{name}` stands for one step and gives it a name.
    pub path: String,
    /// HTTP method.
    #[serde(default = "Endpoint::default_method")]
    pub method: String,
    /// Query to answer from; `:name` stands for a step, a parameter or a key of the body.
    pub query: Option<String>,
    /// Record to write.
    pub write: Option<Write>,
    /// Status of the answer.
    #[serde(default = "Endpoint::default_status")]
    pub status: u16,
    /// The answer; `{name}` in its texts stands for a value: those above, and `{records}`, `{size}`, `{first}`, `{id}`,
    /// `{created}`.
    pub answer: Option<Value>,
}

/// A class whose methods are called by SOAP.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebService {
    /// Its name, behind that of its namespace and a slash where it has one.
    pub class: String,
    /// Types of its own, each with its fields and their types.
    #[serde(default)]
    pub types: BTreeMap<String, BTreeMap<String, String>>,
    /// Its methods.
    pub methods: Vec<Method>,
}

/// A method that is called by SOAP.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Method {
    /// Its name.
    pub name: String,
    /// What it takes, in order.
    #[serde(default)]
    pub parameters: Vec<Parameter>,
    /// The type of what it returns, if it does; `[]` behind it makes a list.
    pub returns: Option<String>,
    /// Query to answer from; `:name` stands for a parameter.
    pub query: Option<String>,
    /// Record to write.
    pub write: Option<Write>,
    /// What it returns; `{name}` in its texts stands for a parameter, and `{records}`, `{size}`, `{first}`, `{id}`,
    /// `{created}`.
    pub answer: Option<Value>,
}

/// What a method takes.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// Its type; `[]` behind it makes a list.
    #[serde(rename = "type")]
    pub kind: String,
}

impl Endpoint {
    fn default_method() -> String {
        "GET".to_owned()
    }

    fn default_status() -> u16 {
        200
    }
}

/// A record that an endpoint writes.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Write {
    /// The object.
    pub object: String,
    /// External id field by which the record is found, if it may be there already.
    pub key: Option<String>,
    /// Fields and their values, in which `{name}` stands for a value of the call.
    pub values: BTreeMap<String, Value>,
}

/// An invocable action.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Action {
    /// Its kind, such as `flow` or `apex`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Label; the name if absent.
    pub label: Option<String>,
    /// Inputs that must be given.
    #[serde(default)]
    pub inputs: Vec<String>,
    /// Record that each call writes.
    pub write: Option<Write>,
    /// What each call returns; `{name}` in its texts stands for an input.
    #[serde(default)]
    pub outputs: BTreeMap<String, Value>,
}

impl Definition {
    /// Reads a definition.
    ///
    /// # Errors
    ///
    /// When the file can't be read or is no definition; the message says the line.
    pub fn load(path: &Path) -> Result<Self, StartError> {
        let wrong = |reason: String| StartError::Definition { path: path.to_owned(), reason };
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        let definition: Self = serde_saphyr::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        definition.check().map_err(wrong)?;
        Ok(definition)
    }

    /// Finds what the grammar can't.
    fn check(&self) -> Result<(), String> {
        let zones = self.users.iter().map(|user| (&user.username, &user.time_zone));
        let admin = "the organization".to_owned();
        for (who, zone) in zones.chain([(&admin, &self.organization.time_zone)]) {
            zone.parse::<chrono_tz::Tz>().map_err(|_| format!("{who}: time zone {zone:?} is not known"))?;
        }
        if !(1..=12).contains(&self.organization.fiscal_year_start_month) {
            return Err("organization: fiscal_year_start_month is a month from 1 to 12".to_owned());
        }
        for user in &self.users {
            if user.profile != "System Administrator" && !self.profiles.contains_key(&user.profile) {
                return Err(format!("user {}: profile {:?} is not defined", user.username, user.profile));
            }
            if let Some(set) = user.permission_sets.iter().find(|set| !self.permission_sets.contains_key(*set)) {
                return Err(format!("user {}: permission set {set:?} is not defined", user.username));
            }
        }
        if let Some((role, Some(above))) =
            self.roles.iter().find(|(_, above)| above.as_ref().is_some_and(|above| !self.roles.contains_key(above)))
        {
            return Err(format!("roles: {role}: there is no role {above:?}"));
        }
        for user in &self.users {
            if let Some(role) = user.role.as_ref().filter(|role| !self.roles.contains_key(*role)) {
                return Err(format!("user {}: role {role:?} is not defined", user.username));
            }
        }
        for app in &self.apps {
            if app.client_id.is_empty() {
                return Err(format!("app {:?} has no client_id", app.name));
            }
            if let Some(range) = app.ip_ranges.iter().find(|range| crate::oauth::ip_range(range).is_none()) {
                return Err(format!("app {:?}: {range:?} is no range such as 10.0.0.0-10.0.0.255", app.name));
            }
        }
        Ok(())
    }
}
