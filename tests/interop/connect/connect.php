<?php
// One connection by a driver of PHP's: DRIVER FORM, where the form is a DSN or keywords.
$sql = "select current_user || ' ' || current_database()";
[, $driver, $form] = $argv;
if ($driver === 'PHP PDO') {
    $pdo = new PDO($form, null, null, [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION]);
    echo $pdo->query($sql)->fetchColumn(), "\n";
} else {
    $connection = pg_connect($form) ?: exit(1);
    echo pg_fetch_result(pg_query($connection, $sql), 0, 0), "\n";
}
