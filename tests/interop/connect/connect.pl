# One connection by DBD::Pg: a DSN.
use strict;
use warnings;
use DBI;
my $connection = DBI->connect($ARGV[0], "", "", { RaiseError => 1, PrintError => 0 });
print $connection->selectrow_array("select current_user || ' ' || current_database()"), "\n";
$connection->disconnect;
