// What users write with jsforce: the record stream of a Bulk query, as its documentation has it, into PostgreSQL by pg-copy-streams.
// By Bulk API 1.0: of a Bulk 2.0 query it mixes the pages of a result that has more than one, in the middle of rows.
// Called with the sandbox's address, PostgreSQL's address, the query, the COPY statement, a statement before
// and one after it, and the folder of its node_modules.

import { createRequire } from "node:module";
import { pipeline } from "node:stream/promises";

const [address, database, query, copy, before, after, modules] = process.argv.slice(2);
const require = createRequire(`${modules}/package.json`);
const jsforce = require("jsforce");
const { Client } = require("pg");
const { from } = require("pg-copy-streams");

const granted = await fetch(`${address}/services/oauth2/token`, { method: "POST",
  body: new URLSearchParams({ grant_type: "client_credentials", client_id: "sandbox", client_secret: "sandbox-secret" }) });
const { access_token: accessToken } = await granted.json();
const connection = new jsforce.Connection({ instanceUrl: address, accessToken, version: "66.0" });
connection.bulk.pollInterval = 200;
connection.bulk.pollTimeout = 3_600_000;
const client = new Client({ connectionString: database });
await client.connect();
const records = await connection.bulk.query(query);
const cell = (value) => (value === "" || value == null ? "" : `"${value.replaceAll('"', '""')}"`);
async function* lines(source) {
  let text = "", names = null;
  for await (const record of source) {
    if (!names) text += (names = Object.keys(record)).join() + "\n";
    text += names.map((name) => cell(record[name])).join() + "\n";
    if (text.length > 1 << 16) { yield text; text = ""; }
  }
  yield text;
}
await client.query(before);
await pipeline(records, lines, client.query(from(copy)));
await client.query(after);
await client.end();
process.exit(0);
