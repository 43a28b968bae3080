//! A client for the Salesforce APIs: OAuth, REST, Composite, Bulk 2.0.
