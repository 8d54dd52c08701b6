<?php
// Forty of Laravel's connections, all held at once: HOST PORT.
require '/usr/share/php/Illuminate/Database/autoload.php';

use Illuminate\Database\Capsule\Manager;
use Illuminate\Database\QueryException;

[, $host, $port] = $argv;
const CLIENTS = 40;
const ROUNDS = 3;

$laravel = new Manager();
$clients = [];
for ($number = 0; $number < CLIENTS; $number++) {
    $laravel->addConnection([
        'driver' => 'pgsql',
        'host' => $host,
        'port' => $port,
        'database' => 'postgres',
        'username' => 'postgres',
        'password' => '',
        'charset' => 'utf8',
        'prefix' => 'pool_',
        'schema' => ['public', 'pg_catalog'],
        'timezone' => ['UTC', 'Asia/Tokyo', 'Europe/Berlin'][$number % 3],
        'isolation_level' => 'REPEATABLE READ',
        'synchronous_commit' => 'off',
        'application_name' => "laravel $number",
        // Some are told to by those who know poolers.
        'options' => [PDO::ATTR_EMULATE_PREPARES => $number % 2 == 0],
    ], "client$number");
    $clients[] = $laravel->getConnection("client$number");
    end($clients)->getPdo();
}
$schema = $clients[0]->getSchemaBuilder();
$schema->dropIfExists('laravel');
$schema->create('laravel', function ($table) {
    $table->increments('id');
    $table->integer('client');
    $table->integer('turn');
});
$said = array_fill(0, CLIENTS, []);
for ($turn = 0; $turn < ROUNDS; $turn++) {
    foreach ($clients as $number => $client) {
        $client->transaction(function ($client) use ($number, $turn, &$said) {
            $client->table('laravel')->insert(['client' => $number, 'turn' => $turn]);
            try {
                // Within a savepoint.
                $client->transaction(fn ($client) => $client->select('select 1 / 0'));
            } catch (QueryException $error) {
                $said[$number][] = $error->getCode();
            }
        });
        $client->table('laravel')->where('client', $number)->where('turn', $turn)->where('turn', '<>', $turn + 1)->value('turn');
        $said[$number][] = $client->table('laravel')->where('client', $number)->count();
        $said[$number][] = $client->selectOne("select ? like ? escape '!' as found", ['C:\\temp\\', 'C:%'])->found ? 'found' : 'missing';
        $settings = ['timezone', 'search_path', 'transaction_isolation', 'synchronous_commit', 'application_name'];
        foreach ($settings as $name) {
            $said[$number][] = $client->selectOne('select current_setting(?) as value', [$name])->value;
        }
    }
}
foreach ($said as $one) {
    echo implode(' ', $one), "\n";
}
