WITH
-- Functions of the server's own that leave something, and how much: 1 only what sequences have given, 2 anything else.
-- What is not known to leave nothing does.
danger AS (
  SELECT oid, proname, prosrc, CASE WHEN proname IN ('nextval', 'setval') THEN 1 ELSE 2 END AS reach, is_known
  FROM pg_proc CROSS JOIN LATERAL (SELECT proname ~ 'advisory_lock' OR proname ~
    '^(set_config|setseed|nextval|setval|query_to_xml|cursor_to_xml|ts_stat$|ts_rewrite|binary_upgrade_|pg_backup_start|pg_start_backup|pg_create_(physical|logical)|pg_copy_|pg_replication_origin_session_setup)'
    AS is_known) k
  WHERE oid < 16384 AND prolang = 12 AND (
    is_known
    OR provolatile = 'v'
      AND proname !~ '^(RI_FKey_|lo_|pg_(try_)?advisory_(xact|unlock)|pg_stat_get_|pg_current_|pg_last_|pg_is_|pg_ls_|pg_control_|pg_sleep|pg_xact_|txid_|currtid)'
      AND proname !~ '(handler|_size)$'
      AND proname NOT IN ('random', 'clock_timestamp', 'timeofday', 'gen_random_uuid', 'uuidv4', 'uuidv7', 'currval',
        'lastval', 'current_query', 'loread', 'lowrite', 'pg_notify', 'pg_blocking_pids', 'pg_safe_snapshot_blocking_pids',
        'pg_cancel_backend', 'pg_terminate_backend', 'pg_lock_status', 'pg_partition_tree', 'pg_partition_ancestors',
        'pg_prepared_xact', 'pg_sequence_last_value', 'pg_notification_queue_usage', 'pg_collation_actual_version',
        'suppress_redundant_updates_trigger', 'tsvector_update_trigger', 'tsvector_update_trigger_column',
        'unique_key_recheck', 'bernoulli', 'system'))
  UNION ALL
  SELECT oid, proname, prosrc, 2, true FROM pg_proc WHERE oid >= 16384 AND prolang = 13 AND prosrc = 'set_limit'
),
-- What a tree of a stored expression holds that calls one of them, or reads the view that sets what is written to it.
tree AS (
  SELECT
    concat('[:](relid ', 'pg_catalog.pg_settings'::regclass::oid, '|[a-z]*(funcid|fnoid) (',
      string_agg(oid::text, '|') FILTER (WHERE reach = 2), '))[ }]') AS anything,
    concat('[:][a-z]*(funcid|fnoid) (', string_agg(oid::text, '|') FILTER (WHERE reach = 1), ')[ }]') AS sequences,
    concat('[:][a-z]*(funcid|fnoid) (', string_agg(oid::text, '|') FILTER (WHERE is_known), ')[ }]') AS known,
    concat('[:]relid ', 'pg_catalog.pg_settings'::regclass::oid, '[ }]') AS settings
  FROM danger
),
routine AS (
  SELECT p.oid, p.prolang, p.prosrc, p.probin, p.proconfig, p.proargdefaults::text AS defaults, l.lanname,
    CASE WHEN p.prolang = 14 THEN to_jsonb(p) ->> 'prosqlbody' END AS body,
    p.prolang = 14 OR l.lanname = 'plpgsql' AND h.prosrc = 'plpgsql_call_handler' AND h.probin = '$libdir/plpgsql'
      AS is_read
  FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang LEFT JOIN pg_proc h ON h.oid = l.lanplcallfoid
  WHERE p.oid >= 16384 OR p.prolang NOT IN (12, 13)
),
expression AS (
  SELECT concat(CASE ev_type WHEN '1' THEN 'view ' ELSE 'rule on ' END, ev_class::regclass) AS name,
    concat(ev_qual, ' ', ev_action) AS tree, CASE ev_type WHEN '1' THEN 0 ELSE 1 END AS least, false AS gives
  FROM pg_rewrite WHERE oid >= 16384
  UNION ALL
  -- Views of the server's own that are not what they were: those functions of which no more is known than that they are
  -- volatile are called by some of them.
  SELECT concat('view ', ev_class::regclass), '', 2, false
  FROM pg_rewrite, tree CROSS JOIN LATERAL (SELECT concat(ev_qual, ' ', ev_action) AS rule) r
  WHERE oid < 16384 AND (rule ~ known AND (ev_class, rulename) <> ('pg_settings'::regclass::oid, 'pg_settings_u')
    OR rule ~ settings AND ev_class <> 'pg_settings'::regclass)
  UNION ALL
  SELECT concat('trigger ', quote_ident(tgname), ' on ', tgrelid::regclass), tgqual::text, 0, false
  FROM pg_trigger WHERE tgqual IS NOT NULL
  UNION ALL
  SELECT concat('policy ', quote_ident(polname), ' on ', polrelid::regclass), concat(polqual, ' ', polwithcheck), 0, false
  FROM pg_policy
  UNION ALL
  -- The defaults of columns count where rows are inserted.
  SELECT concat('default in ', adrelid::regclass), adbin::text, 0, true FROM pg_attrdef
  UNION ALL
  SELECT concat('constraint ', quote_ident(conname)), conbin::text,
    CASE WHEN contype = 'f' AND 'd' IN (confupdtype, confdeltype) THEN 1 ELSE 0 END, false
  FROM pg_constraint WHERE conbin IS NOT NULL OR contype = 'f' AND 'd' IN (confupdtype, confdeltype)
  UNION ALL
  SELECT concat('type ', oid::regtype), typdefaultbin::text, 0, false FROM pg_type WHERE typdefaultbin IS NOT NULL
  UNION ALL
  SELECT concat('index ', indexrelid::regclass), concat(indexprs, ' ', indpred), 0, false
  FROM pg_index WHERE indexprs IS NOT NULL OR indpred IS NOT NULL
  UNION ALL
  SELECT concat('partitions of ', partrelid::regclass), partexprs::text, 0, false
  FROM pg_partitioned_table WHERE partexprs IS NOT NULL
  UNION ALL
  SELECT concat('statistics ', quote_ident(stxname)), to_jsonb(s) ->> 'stxexprs', 0, false FROM pg_statistic_ext s
  UNION ALL
  -- An INSERT in a body has the defaults of columns give values, and so have an UPDATE and a MERGE.
  SELECT concat('function ', oid::regprocedure), concat(defaults, ' ', body),
    CASE WHEN body ~ '[:]commandType [235]' THEN 1 ELSE 0 END, false
  FROM routine WHERE defaults IS NOT NULL OR body IS NOT NULL
),
culprit AS (
  SELECT name, CASE WHEN tree ~ anything THEN 2 WHEN NOT gives AND tree ~ sequences THEN 1 ELSE least END AS reach,
    'what it calls' AS why
  FROM expression, tree
  UNION ALL
  SELECT concat('function ', r.oid::regprocedure), 2, concat('it is written in ', lanname)
  FROM routine r WHERE NOT is_read AND prolang NOT IN (12, 13)
  UNION ALL
  SELECT concat('function ', r.oid::regprocedure), 2, 'it is too long to be read'
  FROM routine r WHERE is_read AND octet_length(prosrc) > 20000
  UNION ALL
  SELECT concat('function ', r.oid::regprocedure), 2, 'it sets a random seed'
  FROM routine r WHERE EXISTS (SELECT FROM unnest(proconfig) c WHERE c ~* '^seed=')
  UNION ALL
  SELECT concat('function ', r.oid::regprocedure), 2, concat('it is written in C, in ', coalesce(probin, '?'))
  FROM routine r WHERE prolang = 13 AND coalesce(probin, '') !~
    '^[$]libdir/(plpgsql|hstore|pg_trgm|citext|btree_gin|btree_gist|pgcrypto|uuid-ossp|ltree|_int|cube|earthdistance|seg|fuzzystrmatch|lo|unaccent|pg_stat_statements|pgstattuple|pageinspect|pg_buffercache|pg_freespacemap|pg_visibility|pgrowlocks|sslinfo|tsm_system_rows|tsm_system_time|dict_int|dict_xsyn|bloom|amcheck|moddatetime|tcn|insert_username|pg_prewarm|file_fdw|vector)$'
  UNION ALL
  -- What the statements of clients are looked through for is the name that it has in its extension.
  SELECT concat('function ', d.oid::regprocedure), 2, concat('it is ', prosrc) FROM danger d
  WHERE d.oid >= 16384 AND proname <> prosrc
  UNION ALL
  SELECT concat('function ', r.oid::regprocedure), 2, concat('it is ', prosrc)
  FROM routine r WHERE prolang = 12 AND prosrc <> 'aggregate_dummy' AND NOT EXISTS (
    SELECT FROM pg_proc p WHERE p.oid < 16384 AND p.prolang = 12 AND p.prosrc = r.prosrc AND p.provolatile IN ('i', 's')
      AND p.oid NOT IN (SELECT oid FROM danger))
  UNION ALL
  -- Functions of the server's own by other names than those for which the statements of clients are looked through.
  SELECT concat('function ', oid::regprocedure), 2, concat('it is ', prosrc) FROM danger
  WHERE oid < 16384 AND CASE
    WHEN prosrc ~ 'set_config' THEN proname <> 'set_config'
    WHEN prosrc ~ 'advisory_lock' THEN proname !~ 'advisory_lock'
    WHEN prosrc ~ '(nextval|setval)' THEN proname !~ '^(nextval|setval)$'
    WHEN prosrc ~ 'setseed' THEN proname <> 'setseed'
    WHEN prosrc ~ 'query_to_xml' THEN proname !~ '^query_to_xml'
    WHEN prosrc ~ '^ts_stat' THEN proname !~ '^ts_stat'
    WHEN prosrc ~ '^tsquery_rewrite' THEN proname !~ '^ts_rewrite'
    WHEN prosrc ~ '^(pg_backup_start|pg_start_backup|pg_create_(physical|logical)|pg_copy_|pg_replication_origin_session_setup)'
      THEN proname !~ '^(pg_backup_start|pg_start_backup|pg_create_(physical|logical)|pg_copy_|pg_replication_origin_session_setup)'
    ELSE false END
  UNION ALL
  -- Functions of the server's own that are not what they were.
  SELECT concat('function ', p.oid::regprocedure), 2, concat('it is ', p.prosrc)
  FROM pg_proc p WHERE p.oid < 16384 AND (
    p.prolang = 12 AND p.oid NOT IN (SELECT oid FROM danger) AND p.prosrc IN (SELECT prosrc FROM danger)
    OR p.prolang = 13 AND coalesce(p.probin, '') !~ '^[$]libdir/(plpgsql|dict_snowball|[a-z0-9_]+_and_[a-z0-9_]+|euc2004_sjis2004)$')
  UNION ALL
  SELECT concat('aggregate ', a.aggfnoid), d.reach, concat('it calls ', d.proname)
  FROM pg_aggregate a CROSS JOIN LATERAL unnest(ARRAY[aggtransfn, aggfinalfn, aggcombinefn, aggserialfn, aggdeserialfn,
    aggmtransfn, aggminvtransfn, aggmfinalfn]::oid[]) f (oid) JOIN danger d ON d.oid = f.oid
  WHERE a.aggfnoid::oid >= 16384
  UNION ALL
  SELECT concat('operator ', o.oid::regoperator), d.reach, concat('it calls ', d.proname)
  FROM pg_operator o CROSS JOIN LATERAL unnest(ARRAY[oprcode, oprrest, oprjoin]::oid[]) f (oid)
    JOIN danger d ON d.oid = f.oid
  WHERE o.oid >= 16384
  UNION ALL
  SELECT concat('cast to ', c.casttarget::regtype), d.reach, concat('it calls ', d.proname)
  FROM pg_cast c JOIN danger d ON d.oid = c.castfunc WHERE c.oid >= 16384
  UNION ALL
  SELECT concat('operator class over ', m.amproclefttype::regtype), d.reach, concat('it calls ', d.proname)
  FROM pg_amproc m JOIN danger d ON d.oid = m.amproc WHERE m.oid >= 16384
  UNION ALL
  SELECT 'all functions together', 2, 'there is too much of them to be read'
  FROM (SELECT sum(octet_length(prosrc)) AS bytes, count(*) AS number FROM routine WHERE is_read) r
  WHERE bytes > 4000000 OR number > 20000
),
found AS (SELECT name, reach, why FROM culprit WHERE reach > 0 ORDER BY reach DESC LIMIT 10)
SELECT 'found', name, reach::text, why FROM found
UNION ALL
SELECT 'names', '', reach::text, string_agg(DISTINCT proname::text, ' ') FROM danger GROUP BY reach
UNION ALL
-- From PostgreSQL 18 on functions in SQL keep plans too. What 'now' means in a plan is the moment at which that was made; a function in
-- SQL may become part of a statement's.
SELECT 'plans', '', CASE WHEN moment THEN 'moment' ELSE '' END, ''
FROM (
  SELECT bool_or(prolang <> 14 OR current_setting('server_version_num')::int >= 180000) AS keeps,
    bool_or(concat(prosrc, ' ', defaults)
      -- A backslash means the same to every client's lexis this way.
      ~* E'[''$][^''$]*[[:<:]](now|today|tomorrow|yesterday)[[:>:]](?!\\s*[(])|\\\\[xuU0-7]') AS moment
  FROM routine WHERE oid >= 16384 AND prolang NOT IN (12, 13)) plans
WHERE keeps OR moment
UNION ALL
SELECT 'source', concat('function ', oid::regprocedure), lanname::text, prosrc
FROM routine WHERE is_read AND body IS NULL AND NOT EXISTS (SELECT FROM found WHERE reach = 2)
