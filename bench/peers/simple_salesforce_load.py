"""What users write with simple-salesforce: a table as a CSV file by COPY, and that by a Bulk 2.0 upsert.

Called with the sandbox's address, PostgreSQL's address, the COPY statement, the object and its external id.
"""

import sys
import tempfile

import psycopg

from simple_salesforce_org import sign_in

address, database, copy, name, external = sys.argv[1:6]

org = sign_in(address)
with tempfile.NamedTemporaryFile("wb", suffix=".csv") as file, psycopg.connect(database) as db:
    with db.cursor().copy(copy) as rows:
        for data in rows:
            file.write(data)
    file.flush()
    results = getattr(org.bulk2, name).upsert(file.name, external_id_field=external)
failed = sum(int(result["numberRecordsFailed"]) for result in results)
print(f"{failed} failed")
