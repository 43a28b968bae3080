// What users do with Salesforce's own command line: a bulk export to a file, and that into PostgreSQL by psql.
// Called with the sandbox's address, PostgreSQL's address, the query, the COPY statement, a statement before
// and one after it, and the folder of its node_modules.

import { execFileSync } from "node:child_process";
import { openSync } from "node:fs";
import { join } from "node:path";
import { signedIn } from "./sf_org.mjs";

const [address, database, query, copy, before, after, modules] = process.argv.slice(2);
await signedIn(address, modules, (sf, home) => {
  const file = join(home, "accounts.csv");
  sf("data", "export", "bulk", "--query", query, "--output-file", file, "--result-format", "csv", "--wait", "60");
  execFileSync("psql", ["-Xqc", before, "-c", copy, "-c", after, database], { stdio: [openSync(file), "ignore", "inherit"] });
});
