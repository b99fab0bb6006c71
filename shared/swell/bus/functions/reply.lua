-- swell_v1_reply: hand replies to the processes that wait for them.
-- KEYS  reply stream of each process
-- ARGV  for each: the replies, encoded
-- returns how many of the streams were gone: their process died or left
-- The stream's own process made it and keeps it alive; a reply never brings one back.
local function reply(keys, args)
  local gone = 0
  for i, stream in ipairs(keys) do
    if not redis.call('XADD', stream, 'NOMKSTREAM', '*', 'b', args[i]) then
      gone = gone + 1
    end
  end
  return gone
end

redis.register_function { function_name = 'swell_v1_reply', callback = reply, flags = { 'allow-oom' } }
