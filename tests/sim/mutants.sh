#!/bin/bash
# Puts faults into a copy of the sources and shows that the simulator finds each within a minute of one core's time.
# All of them are built into one program, each behind a name: MUTANT=name has it make that fault.
# MUTANTS="name name" runs some; SECONDS_EACH=60 is how long each may take; WORK is where the copy is made.
set -u
cd "$(dirname "$0")/../.."
here=$PWD
work=${WORK:-$here/target/mutants}
limit=${SECONDS_EACH:-60}
mkdir -p "$work"

# Name, file, what perl finds there (an expression, or a statement with its semicolon; all such where the file ends in `*`), and what
# is run instead. Nothing found stands for a place in front of a statement.
table() {
    cat <<'TABLE'
broken-proves | src/machine/mod.rs | if \Kself\.is_unsent\(\)(?= \{\n\s+self\.give_up) | self.is_preparing() \|\| self.is_unsent()
reset-end-is-stale | src/machine/mod.rs | else if \Kself\.owes_nothing\(io\) | self.pipeline.owed() > 0 \|\| self.owes_nothing(io)
out-of-place-in-copy | src/track/pipeline/copy_in.rs | front != Some\(Request::Execute\) | true
refused-query-drops | src/machine/from_client.rs | Request::Query \{\n\s+let change = self\.drop_unnamed\(\);\n\s+\Kself\.note_unnamed\(change\) | Note::of(crate::track::rollback::Rollback { unnamed: Some(change), ..Default::default() })
lone-set-local-hastes | src/machine/own_queries.rs | filter\(\|_\| \K!self\.finds_told_status\(\)(?=\) else) | false
end-forgets-settings | src/machine/mod.rs | goes along to the next one\.\n\s+\Kself\.pack\(\); |
unnamed-by-presence | src/track/unnamed_statement.rs | self == unnamed\.map_or\(Self::Absent, \|unnamed\| Self::Is\(unnamed\.id\)\) | (self == Self::Absent) == unnamed.is_none()
unnamed-not-dropped | src/machine/unnamed.rs | self\.set_unnamed\(UnnamedCause::Drop, None, UnnamedStatement::Absent\) | self.set_unnamed(UnnamedCause::Drop, None, self.server.unnamed)
unnamed-later-undone | src/track/pipeline/discarded.rs | later\.follows_undone\(undone, how\); | rollback.unnamed = Some(undone);
preparation-keeps-unnamed | src/machine/preparation.rs | server\.unnamed = UnnamedStatement::Unknown; |
deallocate-ignored | src/machine/mentioned.rs | self\.server\.prepared\.remove\(id\); |
deallocate-all-ignored | src/machine/session_sync.rs | b"DEALLOCATE ALL" => \{\n[^}]*?\Kself\.client\.names\.clear\(\); |
names-not-rolled-back | src/track/client_state.rs | self\.names\.set\(&name, before\); | let _ = (name, before);
prepared-not-rolled-back | src/track/server_state.rs | self\.prepared\.undo\(rollback\); |
discard-all-forgotten | src/track/server_state.rs | pub fn on_discard_all\(&mut self\) \{\n\s+\Kself\.on_deallocate_all\(\); |
gate-waits-for-skipped | src/machine/from_client.rs | self\.pipeline\.copying_in\(\) \|\| self\.pipeline\.has_no_answer_due\(\) | self.pipeline.copying_in()
gate-never-waits | src/machine/from_client.rs | Gate::Answers => \K!harmless | false
stakes-ignored | src/machine/from_client.rs | about_statements && \(\Kself\.pipeline\.at_stake\(\) | false
first-request-unlimited | src/machine/from_client.rs | self\.is_preparing\(\) && request\.ends_ready\(\) | false
differences-behind-ready | src/machine/from_server.rs | self\.hold_ready\(io, status\) \{\n\s+return MessageAction::Swallow;\n\s+\}\n\s+\Kself\.tell_differences\(io\); |
reset-failure-ignored | src/machine/errors.rs | fatal \|\| self\.preparation\.failed\(left, code, self\.context\.statements\) | fatal
sets-not-committed | src/machine/preparation.rs* | self\.put_statement\(b"(?:BEGIN|COMMIT)"\); |
kept-not-carried | src/machine/preparation.rs | for sql in following\.iter\(\)\.chain\(&carried\) \{[^}]*\} | for sql in &following { self.put_statement(sql); }
ledger-commits-failed | src/machine/session_sync.rs | self\.client\.settings\.failed\(\); |
ledger-ignores-rollback | src/machine/session_sync.rs | self\.client\.completed\(\Ktag(?=\)) | b"COMMIT".as_slice()
corrections-left-out | src/machine/own_queries.rs | (?=if edits\.is_empty\(\) \{ \(Some) | edits.clear();
query-behind-ours-lost | src/track/pipeline/discarded.rs | self\.course == Course::SkippingUnasked && \Krequest\.ends_alone\(\) | false
discarded-not-corrected | src/machine/own_queries.rs | if \Kself\.corrections\.is_empty\(\) \|\| !self\.pipeline\.answered\(\) | true
corrections-not-put | src/machine/own_queries.rs | if \Kself\.pipeline\.skipping\(\)(?= \{\n\s+return;) | true
prompted-off-by-one | src/track/pipeline.rs | self\.prompted = self\.prompted\.saturating_sub\(1\); |
prompt-forgotten | src/machine/from_client.rs | waits && !self\.is_preparing\(\) | false
synced-in-copy-counts | src/track/pipeline/copy_in.rs | self\.unsynced = since\.filter[^;]*; |
terminate-drops-answers | src/machine/boundary.rs | let still = \K[^;]*(?=;) | ended \|\| self.pipeline.answered()
half-close-is-gone | src/machine/mod.rs | self\.client_stream\.client = ClientSide::Ending; | self.client_stream.client = ClientSide::Ended;
goodbye-completes-half | src/machine/mod.rs | \(\) if \Kpartial \|\| gone | gone
boundary-for-good | src/machine/from_server.rs | Place::Boundary if \Kself\.pipeline\.answered\(\) | true
put-behind-half-execute | src/track/message_target.rs | frontend::PARSE \| frontend::EXECUTE \| frontend::CLOSE \| frontend::FUNCTION_CALL if \Khead\.size <= limit | head.size <= limit && head.tag == frontend::PARSE
malformed-flush-ignored | src/track/request.rs | frontend::FLUSH if \Khead\.size > frame::HEADER_BYTES | false
malformed-is-read | src/machine/refused_unread.rs | is_whole && \K!frontend::is_well_formed\(tag, body\) | false
own-sync-ends-skip | src/machine/statements.rs | let apart = \K[^;]*(?=;) | true
pins-ignored | src/machine/session_sync.rs | self\.pins\.insert\(holds\); |
kept-not-noted | src/machine/mod.rs | Mode::Transaction && !self\.is_preparing\(\) \{\n\s+\Kself\.server\.kept\.clone_from\(self\.client\.settings\.kept\(\)\); |
date-style-order | src/track/params.rs | name == "DateStyle" && !want\.contains\(&b','\) | false
columns-unchecked | src/machine/ensure_prepared.rs | Some\(_\) => \Kreturn Prepare::Refused\(changed_columns\(\)\) | return Prepare::Ready(())
flavor-ignored | src/track/client_state.rs | for name in REPORTED \{[^}]*\} |
used-by-not-noted | src/machine/mod.rs* | self\.server\.used = self\.server\.used\.and\(self\.context\.client, self\.client\.work\); |
long-names-whole | src/track/client_statements.rs | name\.len\(\)\.min\(63\) | name.len()
sequences-anywhere | src/machine/session_sync.rs | holds\.contains\(Pins::SEQUENCE\) && !self\.knows_sequences\(\) | false
plain-sends-again | src/machine/plain_request.rs | io\.to_server\.drain\([^;]*; |
plain-passes-anything | src/machine/plain_request.rs | _ => \Kreturn None(?=,) | {}
plain-keeps-unnamed | src/machine/plain_request.rs | client\.unnamed = None; |
plain-unnamed-not-noted | src/machine/plain_request.rs | client\.set_unnamed\(id, &text, columns\); |
plain-not-renamed | src/machine/plain_request.rs | frontend::BIND, b"\\0", \Kname(?=, values) | "x"
fate-ignored | src/machine/statements.rs | self\.client\.in_force\.may_go_back\(\); |
refused-close-fails | src/machine/refusal.rs | if \Kmessage\.closes\(\)(?= \{\n\s+// An error here) | false
rows-not-noted | src/machine/from_client.rs | self\.pipeline\.request\(Request::CopyData, ResponseAction::Forward\); |
proceeds-as-if-over | src/machine/mod.rs | if \K!self\.preparation\.goes_together\(\)(?= \{\n\s+// Nothing of) | false
former-time-is-own | src/machine/preparation.rs | let out_of_time = \K[^;]*(?=;) | false
left-open-is-over | src/track/pipeline.rs | let leaves_open = \K[^;]*(?=;) | false
procedures-unseen | src/machine/session_sync.rs | fn doubt_open_settings\(&mut self\) \{\n\s+if \K!self\.client\.settings\.has_changes\(\) | true
characteristics-unfollowed | src/track/session_settings.rs | return \Ksets\.for_each\([^;]*(?=;) | drop(sets)
roles-unseen | src/track/sql_effects/analysis.rs | SessionCommand::OtherSet if \Kstatement\.takes_role\(\) | false
bound-names-unseen | src/track/sql_effects/analysis.rs | (?=let mut arguments = behind\.clone\(\)\.skip\(1\);) | if setting.is_none() { return; }
prepares-no-commit | src/track/session_settings.rs | return \Kself\.commit\(\) | if tag == b"COMMIT" { self.commit() } else { self.open.undo(); false }
resets-in-code-unseen | src/machine/own_queries.rs | if \Kdoubtful\.is_empty\(\)(?= \{\n\s+return false) | true
TABLE
}

# A copy that cargo builds by itself, without what takes long to build.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$work/target} CARGO_PROFILE_RELEASE_LTO=false CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16
export CARGO_PROFILE_RELEASE_STRIP=false CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS=true CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS=true
rm -rf "$work/src" "$work/tests" "$work/config"
cp -a Cargo.toml Cargo.lock src tests config "$work/"
for extra in build.rs README.md benches .cargo rust-toolchain.toml; do
    [ -e "$extra" ] && cp -a "$extra" "$work/"
done
cat >>"$work/src/lib.rs" <<'RUST'

/// Whether the program is to make the fault of this name.
#[doc(hidden)]
pub fn mutant(name: &str) -> bool {
    static CHOSEN: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    CHOSEN.get_or_init(|| std::env::var("MUTANT").ok()).as_deref() == Some(name)
}
RUST

found=0 before=0 missed=0 broken=0 names=
while IFS= read -r line; do
    name=${line%% *}
    if LINE=$line perl -e '
        use strict;
        my ($name, $file, $find, $instead) = map { s/^\s+|\s+$//gr } split / \|(?: |$)/, $ENV{LINE}, 4;
        s/\\\|/|/g for $instead;
        my $all = $file =~ s/\*$//;
        $file = "$ARGV[0]/$file";
        open my $in, "<", $file or exit 1;
        my $text = do { local $/; <$in> };
        my $chosen = qq{crate::mutant("$name")};
        my $put = sub {
            my $is = shift;
            return "if $chosen { $instead } else { $is }" if $is =~ /[;}]$/;
            return $is eq "" ? "if $chosen { $instead }\n" : "(if $chosen { $instead } else { $is })";
        };
        my $done = $all ? $text =~ s/$find/$put->($&)/ge : $text =~ s/$find/$put->($&)/e;
        exit 1 unless $done;
        open my $out, ">", $file or exit 1;
        print $out $text;
    ' "$work"; then
        [ -n "${MUTANTS:-}" ] && [[ " $MUTANTS " != *" $name "* ]] || names="$names $name"
    else
        echo "$name: what it changes is not there any more"
        broken=$((broken + 1))
    fi
done < <(table)
if ! (cd "$work" && cargo test --release --locked --test sim --no-run) >"$work/build.log" 2>&1; then
    grep -A12 '^error' "$work/build.log"
    exit 1
fi
program=$(sed -n 's/.*Executable .*(\(.*\))$/\1/p' "$work/build.log")

# What it finds without a fault says nothing of those.
for name in none $names; do
    # Of the core's time, not the clock's: other work may go on beside it.
    took=$({ TIMEFORMAT=%1U; time (cd "$work" && ulimit -t "$limit" && MUTANT=$name SIM_STEPS=1000000000 SIM_SHRINK=0 RUST_BACKTRACE=0 \
        "$program" simulator::hunt --nocapture >"$work/run.log" 2>&1); :; } 2>&1 | tail -1)
    if [ "$name" = none ]; then
        if grep -m1 '^seed ' "$work/run.log"; then
            echo "something is found without any of these faults"
            exit 1
        fi
    elif grep -q '^seed ' "$work/run.log"; then
        echo "$name: found after $took s: $(grep -m1 '^seed ' "$work/run.log" | cut -c1-110)"
        found=$((found + 1))
    elif ! (cd "$work" && MUTANT=$name RUST_BACKTRACE=0 "$program" simulator::regressions) >"$work/run.log" 2>&1; then
        echo "$name: not found in $limit s, but in what the simulator has found before: $(grep -m1 ', schedule ' "$work/run.log" | cut -c1-110)"
        before=$((before + 1))
    else
        echo "$name: NOT FOUND in $limit s"
        missed=$((missed + 1))
    fi
done
echo "$found found, $before among what was found before, $missed not found, $broken not run"
[ "$missed" -eq 0 ] && [ "$broken" -eq 0 ]
