#!/bin/bash
# Puts faults into a copy of the sources, one by one, and shows that the simulator finds each within a minute on one core.
# MUTANTS="name name" runs some; SECONDS_EACH=60 is how long each may take; WORK is where the copy is made.
set -u
cd "$(dirname "$0")/../.."
here=$PWD
work=${WORK:-$here/target/mutants}
limit=${SECONDS_EACH:-60}
mkdir -p "$work"

# name, file, and what perl makes of it.
table() {
    cat <<'TABLE'
broken-proves|src/machine/mod.rs|s/self\.is_preparing\(\) && how == ServerEnd::Orderly/self.is_preparing()/
reset-end-is-stale|src/machine/mod.rs|s/if unread \|\| self\.owes_nothing\(io\)/if unread || self.pipeline.owed() > 0 || self.owes_nothing(io)/
dying-word-told|src/machine/errors.rs|s/if fatal && self\.owes_nothing\(io\)/if fatal \&\& false \&\& self.owes_nothing(io)/
unnamed-by-presence|src/track/server_state.rs|s/self == unnamed\.map_or\(Self::Absent, \|unnamed\| Self::Is\(unnamed\.id\)\)/(self == Self::Absent) == unnamed.is_none()/
unnamed-not-dropped|src/machine/unnamed.rs|s/self\.set_unnamed\(UnnamedCause::Drop, None, UnnamedStatement::Absent\)/self.set_unnamed(UnnamedCause::Drop, None, self.server.unnamed)/
unnamed-later-undone|src/track/pipeline.rs|s/later\.follows_undone\(undone, how\);/rollback.unnamed = Some(undone);/
preparation-keeps-unnamed|src/machine/preparation.rs|s/server\.unnamed = UnnamedStatement::Unknown;//
deallocate-ignored|src/machine/session_sync.rs|s/self\.server\.prepared\.remove\(id\);\n//
deallocate-all-ignored|src/machine/session_sync.rs|s/(b"DEALLOCATE ALL" => \{\n[^}]*?)\s+self\.client\.names\.clear\(\);/$1/
names-not-rolled-back|src/track/client_state.rs|s/self\.names\.set\(&name, before\);/let _ = (name, before);/
prepared-not-rolled-back|src/track/server_state.rs|s/self\.prepared\.undo\(rollback\);//
discard-all-forgotten|src/track/server_state.rs|s/(pub fn on_discard_all\(&mut self\) \{\n)\s+self\.prepared\.clear\(\);/$1/
gate-waits-for-skipped|src/machine/from_client.rs|s/self\.pipeline\.copying_in\(\) \|\| self\.pipeline\.has_no_answer_due\(\)/self.pipeline.copying_in()/
gate-never-waits|src/machine/from_client.rs|s/Gate::Answers => !harmless,/Gate::Answers => false,/
stakes-ignored|src/machine/from_client.rs|s/about_statements && self\.pipeline\.at_stake\(\)/false/
first-request-unlimited|src/machine/from_client.rs|s/if self\.is_preparing\(\) && request\.ends_ready\(\)/if false/
differences-behind-ready|src/machine/from_server.rs|s/(if self\.hold_ready\(io, status\) \{\n\s+return Fate::Swallow;\n\s+\}\n)\s+self\.tell_differences\(io\);/$1/
reset-failure-ignored|src/machine/errors.rs|s/if fatal \|\| self\.preparation\.was_resetting\(left\) =>/if fatal =>/
sets-not-committed|src/machine/preparation.rs|s/preparation\.put_statement\(b"(BEGIN|COMMIT)"\);//g
kept-not-carried|src/machine/preparation.rs|s/following\.iter\(\)\.chain\(&carried\)/following.iter()/
kept-in-reverse|src/machine/preparation.rs|s/following\.iter\(\)\.chain\(&carried\)/following.iter().chain(carried.iter().rev())/
ledger-commits-failed|src/machine/session_sync.rs|s/self\.client\.ledger\.failed\(\);//
ledger-ignores-rollback|src/machine/session_sync.rs|s/let reset_all = self\.client\.completed\(tag\);/let reset_all = self.client.completed(b"COMMIT");/
corrections-left-out|src/machine/own_queries.rs|s/if edits\.is_empty\(\) \{ \(Some/edits.clear(); if edits.is_empty() { (Some/
corrections-not-put|src/machine/own_queries.rs|s/if self\.pipeline\.skipping\(\) \{\n\s+return;/if true {\n            return;/
prompted-off-by-one|src/track/pipeline.rs|s/self\.prompted = self\.prompted\.saturating_sub\(1\);//
prompt-forgotten|src/machine/from_client.rs|s/if waits && !self\.is_preparing\(\)/if false/
synced-in-copy-counts|src/track/pipeline.rs|s/self\.unsynced = since\.filter/let _ = since.filter/
terminate-drops-answers|src/machine/boundary.rs|s/let still = self\.pipeline\.answered\(\) \|\| \(ended && \(/let still = ended || self.pipeline.answered() || (ended && (/
half-close-is-gone|src/machine/mod.rs|s/self\.up\.client = ClientSide::Ending;/self.up.client = ClientSide::Ended;/
goodbye-completes-half|src/machine/mod.rs|s/\(\) if partial \|\| gone => Goodbye::Silent/() if gone => Goodbye::Silent/
boundary-for-good|src/machine/from_server.rs|s/Place::Boundary if self\.pipeline\.answered\(\) =>/Place::Boundary =>/
put-behind-half-execute|src/track/message_target.rs|s/frontend::PARSE \| frontend::EXECUTE if head/frontend::PARSE if head/
own-sync-ends-skip|src/machine/statements.rs|s/let apart = .*;/let apart = true;/
pins-ignored|src/machine/session_sync.rs|s/self\.pins\.add\(holds\);//
kept-not-noted|src/machine/session_sync.rs|s/self\.server\.kept\.clone_from\(self\.client\.ledger\.kept\(\)\);//
date-style-order|src/track/params.rs|s/name == "DateStyle" && !want\.contains\(&b','\)/false/
columns-unchecked|src/machine/ensure_prepared.rs|s/Some\(_\) => return Prepare::Refused\(changed_columns\(\)\),/Some(_) => return Prepare::Ready(()),/
flavor-ignored|src/track/client_state.rs|s/for name in REPORTED \{/for name in REPORTED.into_iter().take(0) {/
used-by-not-noted|src/machine/mod.rs|s/self\.server\.used = self\.server\.used\.and\(self\.context\.client, self\.client\.work\);//g
TABLE
}

# A copy that cargo builds by itself, without what debuggers need.
export RUSTFLAGS=-Awarnings CARGO_TARGET_DIR=$work/target CARGO_PROFILE_DEV_DEBUG=0 CARGO_PROFILE_TEST_DEBUG=0
rm -rf "$work/src" "$work/tests" "$work/pristine"
cp -a src "$work/pristine"
cp -a Cargo.toml Cargo.lock src tests config "$work/"
for extra in build.rs README.md benches .cargo rust-toolchain.toml; do
    [ -e "$extra" ] && cp -a "$extra" "$work/"
done

found=0 missed=0 broken=0
while IFS='|' read -r name file edit; do
    [ -n "${MUTANTS:-}" ] && [[ " $MUTANTS " != *" $name "* ]] && continue
    # An expression may have a `|` of its own: read takes all that is left.
    cp -a "$work/pristine/." "$work/src/"
    perl -0pi -e "$edit" "$work/$file"
    touch "$work/$file"
    if cmp -s "$work/pristine/${file#src/}" "$work/$file"; then
        echo "$name: the fault is not in $file any more"
        broken=$((broken + 1))
        continue
    fi
    if ! (cd "$work" && cargo test --locked --test sim --no-run) >"$work/build.log" 2>&1; then
        echo "$name: does not compile"
        grep -m1 '^error' "$work/build.log"
        broken=$((broken + 1))
        continue
    fi
    began=$(date +%s)
    (cd "$work" && SIM_STEPS=100000000 SIM_SHRINK=0 RUST_BACKTRACE=0 \
        timeout "$limit" cargo test --locked --test sim -- simulator::hunt --nocapture) >"$work/run.log" 2>&1
    if grep -q '^seed ' "$work/run.log"; then
        echo "$name: found after $(($(date +%s) - began)) s: $(grep -m1 '^seed ' "$work/run.log" | cut -c1-110)"
        found=$((found + 1))
    else
        echo "$name: NOT FOUND in $limit s"
        missed=$((missed + 1))
    fi
done < <(table)
echo "$found found, $missed not found, $broken not run"
[ "$missed" -eq 0 ] && [ "$broken" -eq 0 ]
