# The physical limit of a load: CSV files that are ready, by curl into Bulk jobs, all of them handed over before the first is waited for.
# Called with the sandbox's address, the object, the operation, its external id and the files.
set -euo pipefail
org=$1 object=$2 operation=$3 external=$4
shift 4
base="$org/services/data/v66.0/jobs/ingest"
json() { sed -n "s/.*\"$1\" *: *\"\([^\"]*\)\".*/\1/p"; }
token=$(curl -sSf "$org/services/oauth2/token" -d grant_type=client_credentials -d client_id=sandbox \
    -d client_secret=sandbox-secret | json access_token)
call() { curl -sSf -H "authorization: Bearer $token" "$@"; }
jobs=()
for file in "$@"; do
    job=$(call -H 'content-type: application/json' "$base" -d "{\"object\": \"$object\", \"operation\": \"$operation\",
        \"externalIdFieldName\": \"$external\", \"contentType\": \"CSV\", \"lineEnding\": \"LF\"}" | json id)
    call -o /dev/null -X PUT -H 'content-type: text/csv' "$base/$job/batches" -T "$file"
    call -o /dev/null -X PATCH -H 'content-type: application/json' "$base/$job" -d '{"state": "UploadComplete"}'
    jobs+=("$job")
done
for job in "${jobs[@]}"; do
    until [ "$(call "$base/$job" | json state)" = JobComplete ]; do sleep 0.02; done
done
