//! What the simulator has found, in its notation.

use super::case::Case;
use super::hunt::run;

/// How many interleavings of each are tried.
const SCHEDULES: u64 = 150;

/// What each is about, and the case.
const FOUND: &[(&str, &str)] = &[
    (
        "a query that a copy discards behind a Sync that it ignores",
        "setup mode=transaction reset=always connections=2 buffer=512
     client half_close
     [P('','copy t(token) from stdin') B('','') E S Q('release r') S] |
     [B(k,'','x1')]
     client half_close
     [S]",
    ),
    (
        "a prepared text that resets what the client has asked for, and that is not kept, with more behind it",
        "setup version=13 mode=transaction reset=never connections=2 buffer=512 client_bytes=100
     client half_close
     {DateStyle=sql, dmy}
     [P(b,'select $1, current_setting(''timezone'')',25) P(a,'reset datestyle') B(q,a) E(q,0) Q('start transaction') Q('select $1::text, ''é''')]
     client half_close
     [Q('select 1')] |",
    ),
    (
        "DISCARD ALL by a prepared text that is not kept, with more behind it",
        "setup mode=transaction reset=always connections=1 buffer=512 client_bytes=100
     client half_close
     {DateStyle=sql, dmy}
     [P(b,'select $1, current_setting(''timezone'')',25) P(a,'discard all') S] |
     [B('',a) E S Q('show datestyle') Q('set work_mem = ''5MB''') S Q('show work_mem')] |
     [Q('show work_mem')] |
     client half_close
     [Q('select 1')] |",
    ),
    (
        "settings of a transaction that PostgreSQL 18 leaves open behind a query in a pipeline, and that fails the next command",
        "setup version=18 mode=transaction reset=never connections=1
     client half_close
     [P('','set default_transaction_isolation = ''READ committed''') B('','') E Q('set statement_timeout = ''5ms''') S Q('rollback') Q('show statement_timeout')]
     client half_close
     [Q('select 1')] |
     [Q('select 1')] |",
    ),
    (
        "a statement that is prepared behind a text that is not read, and frees all",
        "setup mode=transaction reset=always connections=1 buffer=512 text=64 step=40
     client half_close
     [Q('/* a long comment: ..........................................................................................................................
        ..................................................................................................................................................
        ..................................................................................................................................................
        .................................................................................................................................................. */
        deallocate all') P(a,'select 1') S P(a,'select 2') S] |",
    ),
    (
        "a statement of which the text is not kept, beside more than a connection may have",
        "setup mode=transaction reset=always connections=1 buffer=4096 client_bytes=40 statements=2
     client half_close
     [P(a,'select ''a long text that is not kept for this client''') S] |
     [P(a,'select 2') S P(a,'select 3') S P(a,'select 4') S] |
     [D(S,a) B('',a) E S] |",
    ),
    (
        "a text for a name that is taken, of which no more are kept, in a failed transaction",
        "setup mode=transaction reset=always connections=1 buffer=4096 client_bytes=40
     client half_close
     [P(a,'select $1::text') Q('begin') B('',nothing) S P(a,'select ''a'' where $1 = ''x''') S Q('rollback') P(a,'selec') S] |",
    ),
    (
        "a procedure that commits what a statement before it in the pipeline has set, which then fails, and one that undoes it",
        "setup mode=transaction reset=never connections=1 step=40
     client half_close
     [P('','set work_mem = ''5MB''') B('','') E P('','call code.finish()') B('','') E P('','select 1/0') B('','') E S] |
     [Q('show work_mem')] |
     [Q('show work_mem')] |
     [P('','set lock_timeout = ''7s''') B('','') E P('','call code.undo()') B('','') E S] |
     [Q('show lock_timeout')] |
     [Q('show lock_timeout')] |
     client half_close
     [Q('show work_mem;show lock_timeout')] |
     [Q('show work_mem;show lock_timeout')] |
     [Q('show work_mem;show lock_timeout')] |",
    ),
    (
        "clients that take turns on a connection whose reset is to be answered before anything is sent behind it",
        "setup version=12 mode=transaction reset=always connections=1 buffer=512 socket=1000
     client half_close
     [Q('select 1')] |
     client hang_up
     [Q('show search_path') Q('select 1')] |",
    ),
    (
        "a time that the client before has allowed its statements, which the setting back of it takes longer than",
        "setup mode=transaction reset=auto code=nothing connections=1 buffer=512 socket=64 step=40 faults=true patient=true
     fault 30 slow
     fault 45 slow
     fault 60 slow
     client hang_up
     [Q('set statement_timeout = ''5ms''')] |
     [Q('select 1')]
     client half_close
     [Q('select 1')] |
     [Q('select 1')] |
     [Q('select 1')] |",
    ),
    (
        "a transaction that a server of version 18 leaves open behind a query in the middle of a pipeline",
        "setup version=18 mode=transaction reset=never connections=1
     client hang_up
     [P('','select 1') B('','') E Q('select 2') S] |
     client half_close
     [Q('select 3')] | [Q('select 4')] |",
    ),
    (
        "a Close in front of a query that is refused while it waits for a connection",
        "setup mode=transaction reset=always connections=1 step=40 patient=true faults=true schedule=7
     fault 0 cancel_waiting
     client half_close
     [Q('begin')] |
     [Q('select 1')] |
     [Q('commit')] |
     client half_close
     [C(S,a) Q('select 1')] |",
    ),
    (
        "code that sets behind a DISCARD ALL what was set before it, of which the server reports nothing",
        "setup mode=transaction reset=auto code=anything connections=3 dialling=2 buffer=32768 text=64 statements=2 socket=100000 step=40 patience=0 janitor=3000 idle=5000 schedule=87256
     client hang_up
     []
     client half_close
     {application_name=it''s \\ me}
     [Q('select code.set(''application_name'', ''hid'')') Q('declare w cursor with hold for select * from v')]
     [P('','discard all') b(q,'') E(q,0) P('','-- in front\\nselect code.set(''application_name'', ''hid'') ; -- behind') B(k,'') E(k,0) S] |
     [Q('ROLLBACK/* one; two */')]",
    ),
    (
        "a statement bound behind the unanswered end of the transaction in which a reported setting was set",
        "setup mode=transaction reset=auto code=sequences connections=3 dialling=2 buffer=32768 step=0 schedule=180010393
     client half_close
     [P(b,'select current_user, current_setting(''timezone'')') Q('begin') Q('set local timezone = ''Asia/Tokyo''') Q('commit') B('',b) E S]",
    ),
    (
        "the same in the extended protocol, with no Sync between",
        "setup mode=transaction reset=auto code=sequences connections=3 dialling=2 buffer=32768 step=0 schedule=180010393
     client half_close
     [P(b,'select current_user, current_setting(''timezone'')') Q('begin') Q('set local timezone = ''Asia/Tokyo''') P('','commit') B('','') E B('',b) E S]",
    ),
    (
        "the same behind a rollback of what was set for the session",
        "setup mode=transaction reset=auto code=sequences connections=3 dialling=2 buffer=32768 step=0 schedule=180010393
     client half_close
     [P(b,'select current_user, current_setting(''timezone'')') Q('begin') Q('set timezone = ''Asia/Tokyo''') Q('rollback') B('',b) E S]",
    ),
    (
        "a Sync of a client that has ended, behind rows of which one fails the copy",
        "setup mode=session reset=never code=anything connections=2 dialling=1 buffer=512 text=1048576 statements=1 socket=100000 step=400 patience=0 faults=false pin=auto refusals=false janitor=0 idle=0 lifetime=0 schedule=44503
     client half_close
     [Q('copy t(token) from stdin') d('k0_3\t1\t2\n') R(530000000578)]",
    ),
    (
        "an unnamed statement behind a Sync that waits for a connection and is cancelled",
        "setup mode=transaction reset=auto code=sequences connections=1 dialling=2 buffer=32768 text=1048576 statements=3 socket=100000 step=40 patience=20000 faults=true pin=auto refusals=false janitor=0 idle=0 lifetime=0 schedule=352
     fault 44 cancel
     client half_close
     [P('','select n, repeat(''z'', 90) from generate_series(1, 200) n--') S S B(k,'','71')] |
     client hang_up tokens
     {options= -c a.b= -c c.d=}
     [P(s,'insert into u(token) values ($1)') S]
     [P('','insert into u values (''tok2_1'', 1)') B('','') E S]
     [Q('copy u(token) from stdin') d('tok2_2\n') c]
     [B('',s,'tok2_3') E S] |
     [Q('begin') Q('insert into u values (''tok2_4'', 1)') Q('insert into u values (''tok2_5'', 1)') Q('commit')]
     [Q('copy u(token) from stdin') d('tok2_6\n') c] |
     [B('',s,'tok2_7') E B('',s,'tok2_8') E S]
     [Q('insert into u values (''tok2_9'', 1);insert into u values (''tok2_10'', 1)')] |
     [P('','insert into u values (''tok2_11'', 1)') B('','') E S]
     [Q('insert into u values (''tok2_12'', 1)')] |",
    ),
    (
        "a SET to just what another client's startup packet asked for, on the connection that was opened for that one",
        "setup mode=transaction reset=auto code=anything connections=2 dialling=2 buffer=512 text=64 statements=1 socket=64 step=0
     client half_close
     {application_name=hid}
     [Q('select 1')] | [Q('select 1')] | [Q('select 1')]
     client half_close
     {application_name=mine}
     [Q('set application_name = ''hid''') P('','select set_config(''work_mem'', ''5MB'', true)') S] |
     [P('','select set_config(''work_mem'', ''5MB'', true)') S] | [P('','select set_config(''work_mem'', ''5MB'', true)') S]",
    ),
    (
        "what a sequence gave last elsewhere, behind a nextval that is prepared and not run",
        "setup mode=transaction reset=never code=anything connections=3 dialling=1 buffer=512 socket=1000 step=0 refusals=true
     client half_close
     [S]
     client hang_up
     {options= -c a.b= -c c.d=}
     [Q('select nextval(''code.seq1'')') P(a,'commit and chain') c P('','select setval(''code.seq1'', 70)--') b('','') E S]
     [] |
     [P('','select nextval(''code.seq1'')') P('','select currval(''code.seq1'')') B('','') E S]",
    ),
    (
        "a client that is gone with a transaction under way, of which the BEGIN is cancelled",
        "setup mode=session reset=auto code=sequences connections=1 socket=100000 step=40 faults=true
     fault 14 client_reset
     fault 12 slow
     client half_close tokens
     [P(s,'insert into u(token) values ($1)') S] |
     [Q('begin') Q('insert into u values (''tok0_5'', 1)') Q('insert into u values (''tok0_6'', 1)') Q('commit')] |
     [Q('insert into u values (''tok0_7'', 1)')]",
    ),
    (
        "a prepared RESET ALL on a connection that was opened with another order of dates",
        "setup mode=transaction reset=auto code=anything connections=2 dialling=2 text=64 statements=1 socket=100000 step=0 janitor=3000 idle=5000 lifetime=20000
     client half_close
     {DateStyle=ISO}
     [P(b,'reset all') b(p,b) E(p,0) S]
     client hang_up
     {DateStyle=German}
     [] |
     [Q('select current_setting(''a.b'', true), current_setting(''c.d'', true), current_user')]
     client half_close
     {DateStyle=ISO}
     [Q('select current_setting(''a.b'', true), current_setting(''c.d'', true), current_user')] |",
    ),
    (
        "a refused query that is discarded, and what it would have dropped",
        "setup mode=transaction connections=1 pin=refuse refusals=true
     client half_close
     client half_close
     {options= -c a.b= -c c.d=}
     [R(5000000007787878) Q('declare k cursor with hold for select n from generate_series(1, 5) n') S b(p,'') E(p,0)]",
    ),
    (
        "a SET LOCAL to a default that is the client's own, of which it is not known whether a transaction is open",
        "setup mode=transaction connections=2 dialling=2 socket=1000 step=40
     client half_close
     {options=-csearch_path=two}
     [Q('end') Q('set local search_path = default ; -- behind')]",
    ),
    (
        "a message out of place in a copy, and a statement behind its Sync",
        "setup mode=transaction connections=2 socket=64
     client half_close
     [P('','copy u from stdin') B(k,'') E(k,0) H] |
     [d('late2\\n') P('','select 1') D(S,'') S] |
     [Q('rollback')]",
    ),
    (
        "a Sync behind copy data on which the copy fails, and statements behind it",
        "setup mode=transaction statements=1 step=400
     client half_close
     [P('','copy t(token) from stdin') B('','') E d('k0_5\\t1\\t2\\n') S P(c,'select $1::int + 1 as n') P(c,'select $1::text') S]",
    ),
    (
        "a Sync behind copy data on which the copy fails, and one of a name behind it",
        "setup mode=transaction reset=on_change connections=3
     client half_close
     [P(a,'select $1::text') P('','copy t(token) from stdin') B('','') E d('k\\tnumber\\n') S P(a,'select $2::int')]",
    ),
    (
        "a connection that breaks between two pieces of work, behind a text of which it is not known what it set",
        "setup mode=transaction reset=auto code=nothing connections=1 dialling=2 text=64 socket=1000 step=40 faults=true
     fault 11 reset
     client hang_up
     [Q('\\n\\tselect set_config(''timezone'', ''GMT'', false)/* one; two */')] |
     [Q('select current_setting(''a.b'', true), current_setting(''c.d'', true), current_user')]",
    ),
    (
        "a Flush in the middle of a copy, and an end of the client behind its CopyDone",
        "setup mode=session
     client half_close
     [P('','copy u from stdin') B('','') E] |
     [H c]",
    ),
    (
        "a prepared statement that must not run in a transaction block, behind a SET in the same pipeline",
        "setup mode=transaction reset=on_change connections=3 buffer=512
     client half_close
     {TimeZone=Asia/Tokyo}
     [P(b,'discard all') Q('set timezone = ''UTC''\\n') b('',b) E Q('end')]",
    ),
    (
        "a client that ends in a message while the server keeps back the rest of one",
        "setup mode=transaction socket=1000
     client half_close
     [P('','/* in front */ select n, repeat(''z'', 90) from generate_series(1, 200) n;') B(p,'') E(p,0)]
     [P('','commit') D(S,'') B('','')]/32",
    ),
    (
        "a text behind a SET that the server has not reported",
        "setup mode=transaction reset=auto code=nothing connections=2 socket=1000 step=0
     client half_close
     [P('','set standard_conforming_strings = off') B('','') E P('','select ''a\\\\qb'' as s') S] |
     [B('','') E S]
     client half_close
     [Q('select 1')] | [Q('select 2')] | [Q('select 3')]",
    ),
    (
        "a named text behind a SET that the server has not reported, which another client says too",
        "setup mode=transaction reset=auto code=nothing socket=1000 step=0
     client half_close
     [P('','set standard_conforming_strings = off') B('','') E P(a,'select ''a\\\\qb'' as s') S] |
     [B('',a) E S]
     client half_close
     [P(a,'select ''a\\\\qb'' as s') B('',a) E S] | [B('',a) E S]",
    ),
    (
        "an unnamed text that runs a name made later, behind a Parse that is discarded",
        "setup mode=transaction
     client half_close
     [P('','insert into t(token) values ($1)') B('','','k0_1') E P('','execute c') E P('','insert into t(token) values ($1)') S P(c,'select $1::text') B('','') D(P,'') E]",
    ),
    (
        "a RESET ALL in front of a SET that can't be carried, behind a request whose answer comes later",
        "setup mode=transaction reset=auto code=anything socket=64
     client half_close
     [F]/14
     client half_close
     [Q('select 1 from t where token = ''nobody''') Q('reset all;set search_path = pg_temp, one') Q('copy t from stdin')]",
    ),
    (
        "the next request is sent before the client has taken the answers to the one before",
        "setup mode=session socket=64 step=0
     client half_close
     [Q('start transaction') Q('close all') Q('select ''x''::int') Q('commit')]",
    ),
    (
        "an error in answer to a request that no Sync follows, before the end",
        "setup mode=transaction
     client half_close
     [E]",
    ),
    (
        "an error about another statement than pgferry's makes the books forget none",
        "setup mode=transaction statements=1
     client half_close
     [P(b,'select null::int') B('',b) B('','','1')]",
    ),
    (
        "what breaks the protocol comes behind requests that are answered",
        "setup mode=transaction
     client half_close
     [Q('select ''x''::int') R(7900000004)]",
    ),
    (
        "half a message behind a request that is answered",
        "setup mode=transaction step=400
     client half_close
     [Q('select ''x''::int') R(4800008000)]",
    ),
    (
        "what the server says of a message that has no place in a copy",
        "setup mode=transaction
     client half_close
     [Q('copy u from stdin') B('',b)]",
    ),
    (
        "data that fails a copy, just before the end",
        "setup mode=transaction reset=on_change connections=3
     client half_close
     [P('','copy t(token) from stdin') B('','') E S d('dup2_0\\t1\\t2\\n')]",
    ),
    (
        "a copy whose Sync came too early to commit it",
        "setup mode=session reset=on_change
     client half_close
     [Q('select 1')]
     client half_close
     [P('','copy u from stdin') B('','') E S d('k1_3\\t5\\n') c]/91",
    ),
    (
        "a failed copy with its Sync ahead of the data leaves the connection usable",
        "setup mode=transaction reset=on_change
     client half_close
     [P('','copy t(token) from stdin') B('','') E S d('dup2_0\\t1\\t2\\n') c S]
     [P(c,'') P(c,'select $1::text') S]",
    ),
    (
        "a name that stands elsewhere is freed behind an extended request",
        "setup mode=transaction reset=never statements=2
     client half_close
     [Q('select pg_advisory_lock(100)')]
     client hang_up
     [P(c,'show search_path') S P('','select current_user') Q('deallocate c')]",
    ),
    (
        "a date style without an order, on a connection that has another order",
        "setup mode=transaction reset=never connections=2 step=400
     client half_close
     {DateStyle=ISO}
     [Q('show datestyle')]
     client half_close
     {DateStyle=German}
     [Q('select 1')]",
    ),
    (
        "a Flush of nothing in front of the first request",
        "setup mode=transaction connections=2
     client half_close
     {TimeZone=Asia/Tokyo}
     [Q('select 1')]
     client half_close
     [H Q('show timezone')]",
    ),
    (
        "pgferry's own Sync behind what the server discards",
        "setup mode=transaction statements=1 socket=64 step=400
     client half_close
     [P(a,'commit') P(c,'savepoint r') E Q('begin') Q('execute a')]",
    ),
    (
        "a simple query that is discarded does not take back what the next Parse sets",
        "setup mode=transaction connections=2 step=400
     client half_close
     [Q('select 1')]
     client hang_up
     {DateStyle=German}
     [Q('commit') P('','copy nope from stdin') E Q('select 1') S P('','select a from v') S] |
     [B('','') E S]",
    ),
    (
        "a Parse that is discarded does not bring back what a simple query behind its Sync drops",
        "setup mode=transaction step=400
     client half_close
     [P('','select ''no table''') E(nothing,0) P('','select 2') S Q('commit')] |
     [B('','') H S]",
    ),
    (
        "what breaks the protocol comes behind answers that the server kept back",
        "setup mode=session step=0
     client half_close
     [P('','show timezone') R(7900000004)]",
    ),
    (
        "the end of a transaction ends no portal that was bound behind it",
        "setup mode=transaction reset=on_change socket=64 step=400
     client half_close
     {application_name=it''s \\ me}
     [Q('select code.set(''application_name'', ''hid'')') P('','select * from v') F P('','reset application_name') B('','') E S]",
    ),
    (
        "more than the server's buffer holds, and no Sync before the end",
        "setup mode=transaction reset=on_change
     client hang_up
     [P('','select n, repeat(''z'', 90) from generate_series(1, 200) n') B(p,'') E(p,0) X]",
    ),
    (
        "the same from a client that is gone",
        "setup mode=transaction connections=2
     client hang_up
     [P('','select n, repeat(''z'', 90) from generate_series(1, 200) n') B('','') E] |",
    ),
    (
        "a correction goes behind the whole of an Execute",
        "setup mode=session reset=on_change step=400
     client half_close
     client half_close
     {application_name=mine}
     [P('','reset application_name') B('','') E S]",
    ),
    (
        "an error that takes back what a reset was corrected to",
        "setup mode=transaction reset=never step=0
     client half_close
     {DateStyle=German}
     [P(b,'discard all') B(p,b) E(p,0) P('','declare w cursor for select 1') B(p,'') E(p,0) S P(c,'select $1::int + 1 as n') S Q('show datestyle')]",
    ),
    (
        "a statement's stand-in that was closed to make room is found to be closed",
        "setup mode=transaction reset=never statements=1
     client half_close
     [Q('begin') P(a,'select 1') D(S,a) S Q('create temp table x (a int)') P(b,'select 2') S B('',a) E S P(c,'select 3') S B('',a) E S]",
    ),
    (
        "a Query that is no text drops no unnamed statement",
        "setup mode=session reset=on_change connections=2
     client hang_up
     {DateStyle=German}
     {options= -c a.b= -c c.d=}
     [R(510000000861626364) B('','','x0') S]
     client hang_up
     {options= -c a.b= -c c.d=}
     [P('','select 1') S] |
     [R(510000000861626364) B('','') E S]",
    ),
    (
        "a statement that ends a failed transaction is prepared in it, whatever the settings were",
        "setup mode=transaction reset=never connections=3 statements=2 buffer=512
     client half_close
     [P(c,'commit and chain') S] |
     [Q('set timezone = ''Asia/Tokyo''') Q('begin') Q('selec') B('',c) E S] |
     client half_close
     [Q('begin')] | [Q('select 1')] | [Q('select 1')] | [Q('commit')]
     client half_close
     [Q('begin')] | [Q('select 1')] | [Q('select 1')] | [Q('commit')]",
    ),
    (
        "what a client that is gone has freed is not there for the next",
        "setup mode=transaction reset=never connections=1 faults=true
     fault 26 vanish
     client half_close
     [P(a,'select 1') S] |
     [Q('deallocate all')] |
     [Q('select 1')] |
     [Q('select 1')] |",
    ),
    (
        "half a CopyFail",
        "setup mode=transaction connections=3 socket=64 step=0
     client half_close
     [P('','copy t(token) from stdin') B('','') E H f('no more')]/75",
    ),
    (
        "a statement that is prepared behind DISCARD ALL is not forgotten",
        "setup mode=session reset=on_change connections=1
     client half_close
     [P('','discard all') B('','') E P(c,'select $1') S]
     client half_close
     [P(c,'select 1') S]",
    ),
    (
        "a reset of sequences leaves no transaction open",
        "setup mode=session reset=on_change connections=1
     client half_close
     [Q('insert into t(token) values (''x'')')]
     client half_close
     [P('','discard all') B('','') E S]",
    ),
    (
        "a query that is discarded for the sake of what is prepared in front of it is answered",
        "setup mode=transaction connections=3
     client half_close
     [P(b,'select 1') S] |
     [Q('begin') B('','') S C(S,a) Q('execute b')]
     client half_close
     [Q('begin')] | [Q('select 1')] | [Q('commit')]
     client half_close
     [Q('begin')] | [Q('select 1')] | [Q('commit')]",
    ),
    (
        "a CopyDone that ends no copy",
        "setup mode=transaction connections=3
     client half_close
     [P(b,'abort') D(S,b) S] |
     [P(a,'insert into t(token) values ($1)') C(S,a) c B(k,b,'10') S]
     client half_close
     [Q('begin')] | [Q('select 1')] | [Q('commit')]
     client half_close
     [Q('begin')] | [Q('select 1')] | [Q('commit')]",
    ),
    (
        "what is sent behind a copy waits for what its text does then",
        "setup mode=transaction reset=on_change connections=3
     client half_close
     [Q('copy u from stdin;deallocate all') c E('',2) E('',2) E('',2) S Q('select code.fail(''x'')') P(c,'listen m0') D(S,c) Q('select 1')] |"),
    (
        "a name that is given behind a copy whose text frees all names",
        "setup mode=transaction reset=on_change connections=3
     client half_close
     [Q('copy t from stdin;deallocate all') c P(a,'select 1') P(a,'commit') E]"),
    (
        "a RESET in code behind one in a transaction, in session mode",
        "setup mode=session reset=on_change connections=1
     client half_close
     {application_name=mine}
     [Q('set application_name = ''''') Q('begin') Q('reset all') Q('commit') Q('select code.reset(''application_name'')')]"),
    (
        "a RESET in code behind one in a transaction, in transaction mode",
        "setup mode=transaction reset=on_change connections=1
     client half_close
     {application_name=mine}
     [Q('set application_name = ''''') Q('begin') Q('reset all') Q('commit') Q('select code.reset(''application_name'')')]"),
    (
        "a Close that has no place in a copy and that the server has not seen",
        "setup mode=transaction
     client half_close
     [P(a,'select 1') P('','copy t from stdin') B('','') E C(S,a)]",
    ),
    (
        "half a message that has no place in a copy",
        "setup mode=transaction
     client hang_up
     [P('','copy t(token) from stdin') B(k,'') E(k,0)] [P(a,'insert into u(token) values (''counted'')')]/21",
    ),
    (
        "startup settings that are said again behind DISCARD ALL, in session mode",
        "setup mode=session reset=on_change connections=1
     client half_close
     {options=-c search_path=one}
     [Q('discard all')]
     client half_close
     [Q('show search_path')]",
    ),
    (
        "the unnamed statement in front of a simple query, on a connection that has ended before either is sent",
        "setup mode=transaction reset=on_change connections=1 faults=true
     fault 11 reset
     client hang_up
     [P('','select 1') S] | [B('','') S Q('select 1')]",
    ),
    (
        "a Close behind the end of a copy",
        "setup mode=transaction reset=on_change connections=2 socket=64 step=40
     client half_close
     [P(c,'select * from v') Q('copy t(token) from stdin') c C(S,c) P(c,'insert into t(token) values ($1) returning token, 5') S]",
    ),
    (
        "what an unnamed EXECUTE runs once more",
        "setup mode=transaction reset=on_change connections=1 step=400
     client half_close
     [P(a,'create temp table v as select ''temporary'' as a') B('',a) E P('','execute a') E S B('','') E S]
     client half_close
     [Q('select a from v')]",
    ),
    (
        "a RESET ALL in front of a setting that can't be carried",
        "setup mode=transaction connections=1 dialling=2 step=400
     client half_close
     [Q('select 1')]
     client hang_up
     [Q('begin') Q('reset all') Q('set search_path = pg_temp, one') Q('commit')]
     [Q('select a from v')]",
    ),
    (
        "a named FETCH whose cursor has gone with its transaction",
        "setup mode=transaction step=0
     client hang_up
     [P('','select $1') B(k,'','70') P(b,'FETCH ALL FROM K') D(S,b) S B('',b) E]
     client half_close
     [Q('select 1')]",
    ),
    (
        "half a CopyFail behind another copy that is answered",
        "setup mode=session connections=2 socket=64 step=0
     client half_close
     {TimeZone=Europe/Berlin}
     [Q('copy t from stdin') c Q('copy u from stdin') f('no more')]/60",
    ),
    (
        "half a message behind a copy whose Sync came too early",
        "setup mode=session step=40
     client half_close
     [P('','copy u from stdin') B('','') E S]
     [c P('','select token from t where token = ''dup2_0''') B(p,'')]/68",
    ),
    (
        "half a message of a copy that fails",
        "setup mode=session reset=never step=400
     client half_close
     [Q('copy t from stdin') d('k0_4\\t1\\t2\\n') d('k0_5\\n') d('k0_6\\n')]/60",
    ),
    (
        "a name that is freed behind a copy that is not known to have begun",
        "setup mode=transaction step=400
     client hang_up
     [P(b,'insert into t(token) values ($1)') P('','copy t from stdin') B('','') E S d('k0_5\\t1\\t2\\n') c Q('deallocate b') S]",
    ),
    (
        "an unnamed statement that names another one which is given that name later",
        "setup mode=transaction step=0
     client hang_up
     [P('','deallocate a') P(a,'select $1') B(q,'') E(q,0) S]",
    ),
    (
        "an unnamed statement that is discarded behind a probe",
        "setup mode=transaction reset=on_change connections=2 socket=64 step=400
     client half_close
     {DateStyle=ISO}
     [Q('show search_path')] |
     client hang_up
     [S Q('ROLLBACK -- behind')] |
     client hang_up
     [E(nothing,0) P('','select * from v') D(S,'') B(p,'') D(P,p) E(p,0) C(P,p) S B('','') E P(c,'listen m2')]",
    ),
    (
        "an unnamed statement that discarded queries don't drop",
        "setup mode=transaction reset=on_change connections=2 dialling=2 step=400
     client half_close
     {DateStyle=German}
     [B('',b) D(P,'') E S Q('delete from t where token = ''dup1_0''')] |
     client hang_up
     [P('','copy u from stdin') S] |
     [E(nothing,0)]
     [Q('end') Q('select 1') B('',a) D(P,'') E S S] |
     [B(p,'','1')]",
    ),
    (
        "what sequences gave another client is not what an INSERT gave this one",
        "setup mode=transaction reset=never refusals=true step=40
     client hang_up
     [Q('select nextval(''code.seq1'')')]
     client hang_up
     [Q('insert into t(token) values (''k2_1'');prepare sql_c as insert into u(token) values (''prepared'')') Q('select lastval()')]",
    ),
    (
        "what is sent behind an EXECUTE that resets a setting is run under the client's own",
        "setup mode=transaction reset=on_change connections=1 step=400
     client hang_up
     {DateStyle=sql, dmy}
     [P(b,'set datestyle = default') Q('execute b') Q(' listen n1--')]
     client hang_up
     {DateStyle=sql, dmy}
     [P(b,'set datestyle = default') P('','execute b') B('','') E('',0) S Q(' listen n1--')]
     client hang_up
     {DateStyle=sql, dmy}
     [P(b,'set datestyle = default') P(c,'execute b') B('',c) E('',0) S Q(' listen n1--')]",
    ),
    (
        "a statement that is prepared again is read as it was read first",
        "setup mode=transaction reset=always connections=1 statements=1 step=40
     client half_close
     [P('','select set_config(''work_mem'', ''4MB'', true)') P(a,'select ''a\\\\qb'' as s') Q('set standard_conforming_strings = off') P(a,'insert into t(token) values ($1) returning token, 5;') S Q('execute a ')]
     client half_close
     [P(b,'select ''a\\\\qb'' as s') S] [Q('set standard_conforming_strings = off')] [Q('set search_path = one')] [B('',b) E('',0) S]",
    ),
    (
        "a text may need more statements than a connection is to have",
        "setup mode=transaction reset=on_change statements=1 step=400
     client half_close
     [P(c,'insert into t(token) values ($1) returning token, 5;') P(b,'select $1::int + 1 as n') Q('deallocate b;deallocate c')]
     client half_close
     [P(c,'select 1') P(b,'select 2') Q('execute b;execute c;execute b')]
     client half_close
     [P(c,'select 1') P(b,'execute c') P(a,'select 3') S] [B('',b) E('',0) S]",
    ),
    (
        "a copy fails at the first byte of what has no place in it",
        "setup mode=transaction step=40
     client hang_up
     [P('','copy t from stdin') B(p,'') E(p,0)]
     [E(nothing,0)]/3
     client hang_up
     [Q('copy t from stdin')]
     [Q('select 1')]/1",
    ),
    (
        "a Close that comes in pieces is refused for its end",
        "setup mode=transaction reset=always step=400
     client half_close
     [S P(a,'insert into t(token) values ($1) returning token, 5') S P('','reset datestyle') B('','') E]
     [R(430000000853610078)]",
    ),
    (
        "nothing is asked in the middle of a message of the client's",
        "setup mode=transaction reset=never buffer=512 socket=1000 step=0
     client hang_up
     client half_close
     [Q('select code.set(''application_name'', ''hid'')')]
     [d('late1\\n')]",
    ),
    (
        "a text that is out of place in a copy that has failed, and a reset behind it",
        "setup mode=session reset=auto code=anything step=40
     client half_close
     {options= -c a.b= -c c.d=}
     [Q('COPY U FROM STDIN ; -- behind') d('half0') d('k0_3\\tnumber\\n') R(510000000f73686f7720c080612e6200) Q('reset a.b; select 1')]",
    ),
    (
        "a call of a function that is never completed is not refused",
        "setup mode=transaction reset=on_change pin=refuse refusals=true step=40
     client half_close
     [P('','show work_mem;')]
     [F]/14",
    ),
    (
        "a statement that defines something is prepared anew once, not for ever",
        "setup mode=transaction reset=auto code=anything connections=2 dialling=2 buffer=512 step=0
     client half_close
     [Q('select code.set(''timezone'', ''Asia/Tokyo'') as z') P(c,'commit prepared ''two0_1''') D(S,c) S B('',c)]",
    ),
    (
        "a cancel request that strikes what corrects a DISCARD ALL fails nothing of the client's",
        "setup mode=session reset=auto code=anything connections=1 dialling=1 buffer=512 socket=64 step=400 faults=true
     fault 20 cancel
     fault 50 cancel
     client hang_up
     {options= -c a.b= -c c.d=}
     [P('','discard all') B('','') E C(P,'') S] |
     [Q('show a.b')]",
    ),
    (
        "a query behind a question of ours that has failed is answered",
        "setup mode=transaction reset=auto code=sequences connections=1 dialling=2 buffer=4096 statements=100 socket=64 step=400 patient=true faults=true
     fault 250 slow
     fault 253 slow
     fault 256 slow
     fault 300 slow
     fault 310 slow
     client half_close
     [Q('set statement_timeout = ''5ms''')]
     [S P('','reset standard_conforming_strings') B('','') E Q('/* in front */ DECLARE K CURSOR WITH HOLD FOR SELECT * FROM V ')] |
     client half_close tokens
     {options= -c a.b= -c c.d=}
     [P(s,'insert into u(token) values ($1)') S]
     [Q('copy u(token) from stdin') d('tok1_1\n') c] |
     [B('',s,'tok1_2') E S]
     [B('',s,'tok1_3') E S]
     [B('',s,'tok1_4') E B('',s,'tok1_5') E S] |
     [Q('begin') Q('insert into u values (''tok1_6'', 1)') Q('insert into u values (''tok1_7'', 1)') Q('commit')] |
     [P('','insert into u values (''tok1_8'', 1)') B('','') E S]
     [Q('begin') Q('insert into u values (''tok1_9'', 1)') Q('insert into u values (''tok1_10'', 1)') Q('commit')]
     [B('',s,'tok1_11') E S]
     [Q('insert into u values (''tok1_12'', 1)')]",
    ),
    (
        "a Sync behind a Close that fails a copy is answered",
        "setup version=12 mode=transaction reset=always connections=1 step=40
     client half_close
     [P(b,'select $1') P('','copy t(token) from stdin') B('','') E C(S,b) S R(42000000147100eda0800000000001ffffffff0000) S P('','select $1::text ') S]",
    ),
    (
        "a copy that has failed before a Close fails once",
        "setup version=13 mode=transaction reset=always connections=1 statements=1 socket=64 step=400
     client half_close
     [S P(b,'rollback to s') P('','copy u from stdin') B(k,'') E(k,0) P('','select nextval(''code.seq0'')',20,23) S C(S,b) Q('select code.reset(''timezone'')')]
     client half_close
     [Q('rollback') Q('show search_path')]",
    ),
    (
        "a cursor with the name of a portal that has run a RESET",
        "setup mode=transaction reset=auto connections=1 step=40
     client half_close
     {options= -c a.b=}
     [Q('begin') P('','reset all') B(k,'') E(k,0) Q('close k') Q('declare k cursor for select * from v') Q('set a.b = ''one''') E(k,0) S] |
     [Q('show a.b')]",
    ),
    (
        "a statement with the types that its client was told, closed to make room while it is used",
        "setup version=12 mode=transaction reset=auto code=anything connections=2 dialling=1 buffer=4096 text=1048576 statements=3 statement_bytes=60 client_bytes=16777216 socket=100000 step=0 patience=0 patient=true faults=false pin=auto refusals=false janitor=0 idle=0 lifetime=0
     fault 120 alter
     client hang_up
     [Q('COPY NOPE FROM STDIN /* behind */') d('dup0_1\\n') P(c,'insert into u(token, n) values (''counted'', $1)') D(S,c) S P(a,'insert into t(token) values ($1) returning token, 5') D(S,a) S C(S,'') S]
     [Q('select nope')]
     [Q('alter table pg_temp.x alter column a type text')]
     [B('',c,'0') B('',a) S b('',c)]
     client half_close
     {options= -c a.b= -c c.d=}
     [C(S,'') Q('COPY NOPE FROM STDIN /* behind */') d('k1_1\\n') P(c,'insert into u(token, n) values (''counted'', $1)') D(S,c) S P(a,'insert into t(token) values ($1) returning token, 5') D(S,a) S S] |
     [Q('select nope')] |
     [Q('alter table pg_temp.x alter column a type text') Q('create or replace function pg_temp.f() returns int language sql begin atomic select ''reset all''::text;select 3;end')]
     [d('dup1_0\\t1\\t2\\n') d('k1_3\\n')] |
     [B(k,b) S B('',c,'1') S P(a,'alter table pg_temp.x alter column a type text\\n') B('',a) S b('',c)]
     [S] |
     [Q('rollback')] |
     [] |
     [Q('select current_setting(''a.b'', true), current_setting(''c.d'', true), current_user')]
     client hang_up
     {options= -c a.b= -c c.d=}
     [Q('select code.set(''application_name'', ''hid'') /* behind */')]
     [] |
     [S] |
     [Q('rollback')] |
     [Q('show search_path;show datestyle;show client_encoding;show timezone;show application_name;show work_mem -- behind\\n;show standard_conforming_strings;show default_transaction_read_only;show default_transaction_isolation;show intervalstyle;show extra_float_digits')] |
     [] |",
    ),
    (
        "a DISCARD ALL of which the text is not kept",
        "setup mode=transaction reset=never connections=3 client_bytes=40 step=40
     client half_close
     {search_path=two}
     [P(b,'commit and chain') P(c,'discard all') B('',c) E S] |
     [P(c,'select * from v') D(S,c) S]",
    ),
    (
        "a transaction that can't have another isolation any more, and a message behind it that nothing asks the answer to",
        "setup mode=transaction reset=on_change connections=1 dialling=2 buffer=32768 statement_bytes=60 socket=1000
     client half_close
     [Q('begin') Q('begin isolation level serializable') Q('select n, repeat(''y'', 100) from generate_series(1, 150) n') Q('end')
      P(a,'create or replace function code.own0() returns int language sql begin atomic select 1;select 2;end')] |",
    ),
    (
        "a RESET ALL that is undone with the text that it is in, behind a new default",
        "setup version=18 mode=session reset=never connections=2 dialling=2 buffer=32768 socket=64 step=400 patient=true
     fault 98 reload
     client hang_up
     [S]
     client hang_up
     {client_encoding=LATIN1}
     [Q('show timezone')]
     client hang_up
     [S Q('RESET ALL\\n;show timezone;deallocate b3;show timezone') S] |",
    ),
];

#[test]
fn what_was_found_stays_mended() {
    let mut back = Vec::new();
    for (about, text) in FOUND {
        let case: Case = text.parse().expect(about);
        let found = (0..SCHEDULES).find_map(|schedule| {
            let (_, found) = run(&Case { schedule, ..case.clone() });
            Some(format!("{about}, schedule {schedule}: {}", found?.text))
        });
        back.extend(found);
    }
    assert!(back.is_empty(), "{}", back.join("\n"));
}
