# One connection by a driver of Ruby's: DRIVER FORM, where the form is a URL, keywords, or the settings of database.yml.
SQL = "select current_user || ' ' || current_database()"
driver, form = ARGV
if driver == "Rails"
  require "active_record"
  require "yaml"
  ActiveRecord::Base.establish_connection(form.include?("://") ? form : YAML.safe_load("{#{form}}"))
  puts ActiveRecord::Base.connection.select_value(SQL)
else
  require "pg"
  puts PG.connect(form).exec(SQL).getvalue(0, 0)
end
