SELECT 'digest', '', '', concat_ws(' ',
  -- What is written in C can't be replaced, but what leaves something can be made to look as if it did not.
  (SELECT concat(count(*), '/', sum(xmin::text::int8)) FROM pg_proc
    WHERE oid >= 16384 OR prolang NOT IN (12, 13) OR provolatile = 'v'),
  (SELECT concat(count(*), '/', sum(xmin::text::int8)) FROM pg_language),
  (SELECT concat(count(*), '/', sum(xmin::text::int8)) FROM pg_operator WHERE oid >= 16384),
  (SELECT concat(count(*), '/', sum(xmin::text::int8)) FROM pg_cast WHERE oid >= 16384),
  (SELECT concat(count(*), '/', sum(xmin::text::int8)) FROM pg_amproc WHERE oid >= 16384),
  (SELECT concat(count(*), '/', sum(xmin::text::int8)) FROM pg_rewrite),
  (SELECT concat(count(*), '/', sum(xmin::text::int8)) FROM pg_trigger WHERE tgqual IS NOT NULL),
  (SELECT concat(count(*), '/', sum(xmin::text::int8)) FROM pg_policy),
  (SELECT concat(count(*), '/', sum(xmin::text::int8)) FROM pg_attrdef),
  (SELECT concat(count(*), '/', sum(xmin::text::int8)) FROM pg_constraint
    WHERE conbin IS NOT NULL OR contype = 'f' AND 'd' IN (confupdtype, confdeltype)),
  (SELECT concat(count(*), '/', sum(xmin::text::int8)) FROM pg_statistic_ext),
  (SELECT concat(count(*), '/', sum(xmin::text::int8)) FROM pg_partitioned_table),
  (SELECT concat(count(*), '/', sum(xmin::text::int8)) FROM pg_index
    WHERE indexprs IS NOT NULL OR indpred IS NOT NULL),
  (SELECT concat(count(*), '/', sum(xmin::text::int8)) FROM pg_type WHERE typdefaultbin IS NOT NULL),
  -- What was there and is gone again has been counted: functions, views, defaults, checks, triggers, policies, casts, operators.
  (SELECT sum(pg_stat_get_tuples_inserted(oid) + pg_stat_get_tuples_updated(oid) + pg_stat_get_tuples_deleted(oid))
    FROM pg_class WHERE oid IN (1255, 2618, 2604, 2606, 2620, 3256, 2605, 2617, 2603)),
  -- Those of domains: every table has a type.
  (SELECT pg_stat_get_tuples_updated(oid) FROM pg_class WHERE oid = 1247))
UNION ALL
-- What the texts of statements name and mean: tables, columns, types, functions, operators, casts, schemas, labels, configurations
-- for searching, collations, roles.
SELECT 'definitions', '', '', sum(pg_stat_get_tuples_inserted(oid) + pg_stat_get_tuples_updated(oid) + pg_stat_get_tuples_deleted(oid))::text
FROM pg_class WHERE oid IN (1259, 1249, 1247, 1255, 2617, 2605, 2615, 3501, 3602, 3600, 3456, 1260)
