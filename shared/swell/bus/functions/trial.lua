-- What is kept of an entry that owners died with: `deaths[;index:trials:epoch]...`. The trials are of its messages, each
-- handled alone, and `epoch` is the owner that counted last, so that no owner counts the same trial twice.

-- Owners that died with an entry, and the trials of its messages as they are written.
local function held_by(deliveries, id)
  local deaths, trials = string.match(redis.call('HGET', deliveries, id) or '', '^(%d+)(.*)$')
  return tonumber(deaths or 0), trials or ''
end

-- swell_v1_trial: note that a message of a suspect entry is about to be handled alone, or take that back.
-- KEYS  lease, deliveries
-- ARGV  epoch, token, entry id, index of the message, 1 (begin) or 0 (take back)
-- returns how many owners have tried it, this one included; -1 if the lease is no longer ours, 0 if no owner died with it
local function trial(keys, args)
  local lease, deliveries = keys[1], keys[2]
  local epoch, id, index = args[1], args[3], args[4]
  if not holds(lease, epoch, args[2]) then
    return -1
  elseif redis.call('HEXISTS', deliveries, id) == 0 then
    return 0
  end
  local deaths, trials = held_by(deliveries, id)
  local count, last = string.match(trials, ';' .. index .. ':(%d+):(%d+)')
  count = tonumber(count or 0)
  if args[5] == '1' and last ~= epoch then
    count, last = count + 1, epoch
  elseif args[5] == '0' and last == epoch then
    count, last = count - 1, '0'
  end
  trials = string.gsub(trials, ';' .. index .. ':%d+:%d+', '')
  if count > 0 then
    trials = trials .. ';' .. index .. ':' .. count .. ':' .. last
  end
  redis.call('HSET', deliveries, id, deaths .. trials)
  return count
end

redis.register_function { function_name = 'swell_v1_trial', callback = trial, flags = { 'allow-oom' } }
