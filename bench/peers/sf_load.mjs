// What users do with Salesforce's own command line: a table as a CSV file by psql, and that by a bulk upsert.
// Called with the sandbox's address, PostgreSQL's address, the COPY statement, the object, its external id and the folder of its
// node_modules.

import { execFileSync } from "node:child_process";
import { openSync } from "node:fs";
import { join } from "node:path";
import { signedIn } from "./sf_org.mjs";

const [address, database, copy, object, external, modules] = process.argv.slice(2);
await signedIn(address, modules, (sf, home) => {
  const file = join(home, "rows.csv");
  execFileSync("psql", ["-Xqc", copy, database], { stdio: ["ignore", openSync(file, "w"), "inherit"] });
  sf("data", "upsert", "bulk", "--file", file, "--sobject", object, "--external-id", external, "--wait", "60");
});
