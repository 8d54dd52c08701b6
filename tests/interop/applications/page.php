<?php
// One page by each of PHP's drivers, over connections that stay with the worker.
$dsn = sprintf('host=%s port=%s dbname=shop user=app', getenv('PGHOST'), getenv('PGPORT'));
$options = [PDO::ATTR_PERSISTENT => true, PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION];
$pdo = new PDO('pgsql:' . str_replace(' ', ';', $dsn), null, null, $options);
$pgsql = pg_pconnect($dsn) or exit;

$pdo->beginTransaction();
$statement = $pdo->prepare('select pg_sleep(?), ?::int + 1');
$number = random_int(1, 1000000);
$statement->execute([(int) $_GET['hold'], $number]);
$first = $statement->fetch(PDO::FETCH_NUM)[1];
$pdo->commit();
$second = pg_fetch_result(pg_query_params($pgsql, 'select $1::int', [$number]), 0, 0);
echo $first == $number + 1 && $second == $number ? 'served by ' : 'WRONG: ', getmypid(), "\n";
