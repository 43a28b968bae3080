"""What users write with simple-salesforce: the results of a Bulk 2.0 query as files, as its documentation has it for large
results, and each of them into PostgreSQL by COPY.

Called with the sandbox's address, PostgreSQL's address, the query, the COPY statement, and a statement before and one after it.
"""

import sys
import tempfile

import psycopg

from simple_salesforce_org import sign_in

address, database, query, copy, before, after = sys.argv[1:7]

org = sign_in(address)
with tempfile.TemporaryDirectory() as folder, psycopg.connect(database) as db:
    db.execute(before)
    for page in org.bulk2.Account.download(query, path=folder, max_records=250000):
        with open(page["file"], "rb") as file, db.cursor().copy(copy) as into:
            while data := file.read(1 << 16):
                into.write(data)
    db.execute(after)
