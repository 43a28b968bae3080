# The physical limit of an extract: the pages of a Bulk query as the org sends them, by curl, into a table of texts by psql.
# Called with what to do (fetch: the pages into files; copy: these files into the table; pipe: both at once), the sandbox's address,
# PostgreSQL's address, the query, a folder and the table. How many rows the pages had is left in the file `rows` of the folder.
set -euo pipefail
part=$1 org=$2 database=$3 query=$4 folder=$5 table=$6
base="$org/services/data/v66.0/jobs/query"
load() { psql -Xqc "\\copy $table from stdin with (format csv, header)" "$database"; }
json() { sed -n "s/.*\"$1\" *: *\"\([^\"]*\)\".*/\1/p"; }

if [ "$part" = copy ]; then
    for page in "$folder"/*.csv; do load < "$page"; done
    exit
fi
rm -rf "$folder" && mkdir -p "$folder"
token=$(curl -sSf "$org/services/oauth2/token" -d grant_type=client_credentials -d client_id=sandbox \
    -d client_secret=sandbox-secret | json access_token)
call() { curl -sSf -H "authorization: Bearer $token" "$@"; }
job=$(call -H 'content-type: application/json' "$base" -d "{\"operation\": \"query\", \"query\": \"$query\"}" | json id)
until [ "$(call "$base/$job" | json state)" = JobComplete ]; do sleep 0.02; done
locator='' number=0 rows=0
while [ "$locator" != null ]; do
    page="$base/$job/results?maxRecords=250000${locator:+&locator=$locator}"
    if [ "$part" = pipe ]; then
        call -D "$folder/headers" "$page" | load
    else
        call -D "$folder/headers" "$page" -o "$folder/$(printf %05d $number).csv"
    fi
    rows=$((rows + $(tr -d '\r' < "$folder/headers" | sed -n 's/^sforce-numberofrecords: //Ip')))
    locator=$(tr -d '\r' < "$folder/headers" | sed -n 's/^sforce-locator: //Ip') number=$((number + 1))
done
echo "$rows" > "$folder/rows"
