// What users write with jsforce: the rows of a table from pg-copy-streams into a Bulk 2.0 upsert, and its results.
// Called with the sandbox's address, PostgreSQL's address, the COPY statement, the object, its external id and the folder of its
// node_modules.

import { createRequire } from "node:module";

const [address, database, copy, object, externalIdFieldName, modules] = process.argv.slice(2);
const require = createRequire(`${modules}/package.json`);
const jsforce = require("jsforce");
const { Client } = require("pg");
const { to } = require("pg-copy-streams");

const granted = await fetch(`${address}/services/oauth2/token`, { method: "POST",
  body: new URLSearchParams({ grant_type: "client_credentials", client_id: "sandbox", client_secret: "sandbox-secret" }) });
const { access_token: accessToken } = await granted.json();
const connection = new jsforce.Connection({ instanceUrl: address, accessToken, version: "66.0" });
connection.bulk2.pollInterval = 200;
connection.bulk2.pollTimeout = 3_600_000;
const client = new Client({ connectionString: database });
await client.connect();
const results = await connection.bulk2.loadAndWaitForResults({ object, operation: "upsert", externalIdFieldName,
  input: client.query(to(copy)) });
console.log(`${results.failedResults.length} failed`);
await client.end();
process.exit(0);
