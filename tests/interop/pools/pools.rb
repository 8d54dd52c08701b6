# Forty connections of Active Record's pool, all held at once: HOST PORT.
require "logger"
require "active_record"

host, port = ARGV
CLIENTS = 40
ROUNDS = 3
ActiveRecord::Base.establish_connection(
  adapter: "postgresql", host: host, port: port, username: "postgres", database: "postgres", pool: CLIENTS + 1,
  checkout_timeout: 60, schema_search_path: "public", variables: { statement_timeout: "30s" }, min_messages: "warning"
)
ActiveRecord::Migration.verbose = false
ActiveRecord::Schema.define do
  create_table(:pool_active_record, force: true) { |table| table.integer :client; table.integer :turn }
end

class Thing < ActiveRecord::Base
  self.table_name = "pool_active_record"
end
Thing.count

class Barrier
  def initialize
    @lock, @all, @come, @turn = Mutex.new, ConditionVariable.new, 0, 0
  end

  def wait
    @lock.synchronize do
      turn = @turn
      @come += 1
      if @come == CLIENTS
        @come = 0
        @turn += 1
        @all.broadcast
      else
        @all.wait(@lock) while turn == @turn
      end
    end
  end
end

barrier = Barrier.new
said = CLIENTS.times.map do |number|
  Thread.new do
    Thread.current.report_on_exception = true
    words = []
    ROUNDS.times do |turn|
      ActiveRecord::Base.connection_pool.with_connection do |connection|
        barrier.wait
        Thing.transaction(isolation: :serializable) { words << connection.select_value("show transaction_isolation") }
        Thing.transaction { Thing.create!(client: number, turn: turn) }
        Thing.transaction do
          Thing.transaction(requires_new: true) { connection.execute("select 1 / 0") }
        rescue ActiveRecord::StatementInvalid => error
          words << error.cause.class.name
        end
        words << Thing.where(client: number).count << Thing.find_by(client: number, turn: turn).turn
        words << connection.select_value("show statement_timeout")
        barrier.wait
      end
    end
    words
  end
end
said.each { |thread| puts thread.value.inspect }
