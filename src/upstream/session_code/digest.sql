SELECT 'digest', '', '', concat_ws(' ',
  (SELECT concat(count(*), '/', sum(xmin::text::int8)) FROM pg_proc),
  (SELECT concat(count(*), '/', sum(xmin::text::int8)) FROM pg_language),
  (SELECT concat(count(*), '/', sum(xmin::text::int8)) FROM pg_aggregate),
  (SELECT concat(count(*), '/', sum(xmin::text::int8)) FROM pg_operator),
  (SELECT concat(count(*), '/', sum(xmin::text::int8)) FROM pg_cast),
  (SELECT concat(count(*), '/', sum(xmin::text::int8)) FROM pg_amproc),
  (SELECT concat(count(*), '/', sum(xmin::text::int8)) FROM pg_rewrite),
  (SELECT concat(count(*), '/', sum(xmin::text::int8)) FROM pg_trigger),
  (SELECT concat(count(*), '/', sum(xmin::text::int8)) FROM pg_policy),
  (SELECT concat(count(*), '/', sum(xmin::text::int8)) FROM pg_attrdef),
  (SELECT concat(count(*), '/', sum(xmin::text::int8)) FROM pg_constraint),
  (SELECT concat(count(*), '/', sum(xmin::text::int8)) FROM pg_statistic_ext),
  (SELECT concat(count(*), '/', sum(xmin::text::int8)) FROM pg_partitioned_table),
  (SELECT concat(count(*), '/', sum(xmin::text::int8)) FROM pg_index
    WHERE indexprs IS NOT NULL OR indpred IS NOT NULL),
  (SELECT concat(count(*), '/', sum(xmin::text::int8)) FROM pg_type WHERE typdefaultbin IS NOT NULL),
  (SELECT sum(pg_stat_get_tuples_inserted(oid) + pg_stat_get_tuples_updated(oid) + pg_stat_get_tuples_deleted(oid))
    FROM pg_class WHERE oid IN (1255, 2618)))
