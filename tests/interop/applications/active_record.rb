# Makes, fills, empties and drops a database three times, as Rails' tasks do.
require "logger"
require "active_record"

host, port = ARGV
ActiveRecord::Base.configurations = {
  "development" => { adapter: "postgresql", host: host, port: port, username: "app", database: "rails_shop", pool: 5 }
}
config = ActiveRecord::Base.configurations.configs_for(env_name: "development").first
tasks = ActiveRecord::Tasks::DatabaseTasks
tasks.env = "development"
tasks.root = Dir.pwd
ActiveRecord::Migration.verbose = false

class Thing < ActiveRecord::Base; end

def expect(what, found, wanted)
  abort "#{what}: #{found.inspect}, not #{wanted.inspect}" unless found == wanted
end

def databases
  sql = "select datname from pg_database where datname = 'rails_shop'"
  `#{ENV["bin"]}/psql -X -At -h 127.0.0.1 -p #{ENV["port"]} -U postgres -d postgres -c "#{sql}"`.split
end

def fill
  ActiveRecord::Schema.define { create_table(:things) { |table| table.string :name, index: true } }
  Thing.reset_column_information
  threads = 4.times.map do |number|
    Thread.new do
      ActiveRecord::Base.connection_pool.with_connection do
        10.times { |turn| Thing.create!(name: "#{number} #{turn}") }
        Thing.transaction { Thing.create!(name: "undone"); raise ActiveRecord::Rollback }
      end
    end
  end
  threads.each(&:join)
  expect "rows", [Thing.count, Thing.where(name: "3 7").count], [40, 1]
end

3.times do |turn|
  abort "db:create" unless tasks.create(config).nil? || databases == ["rails_shop"]
  expect "db:create", databases, ["rails_shop"]
  ActiveRecord::Base.establish_connection(config)
  fill
  # db:test:prepare empties it by making it anew.
  tasks.purge(config)
  ActiveRecord::Base.establish_connection(config)
  expect "db:test:prepare", ActiveRecord::Base.connection.tables, []
  fill
  tasks.drop(config)
  expect "db:drop", databases, []
  # What a connection of before finds.
  ActiveRecord::Base.connection_pool.disconnect!
end
puts "made, filled, emptied and dropped 3 times"
