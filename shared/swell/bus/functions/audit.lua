-- swell_v1_audit: a shard's account beside what its inboxes really hold, in one instant.
-- KEYS  ledger, then for each inbox of the shard: itself, partial
-- returns present (messages in them that nobody settled), entries, then the ledger's fields and values

-- Entries looked at in one step: each may have 1 MiB.
local PAGE = 64

-- The messages that an entry says it holds; a stranger's may say anything, and holds none.
local function messages(n)
  return #n <= 6 and string.match(n, '^[1-9]%d*$') and tonumber(n) or 0
end

-- The messages and entries of one inbox.
local function count(inbox, partial)
  local present, entries, from = 0, 0, '-'
  while true do
    local page = redis.call('XRANGE', inbox, from, '+', 'COUNT', PAGE)
    for _, entry in ipairs(page) do
      entries = entries + 1
      local fields = entry[2]
      for i = 1, #fields, 2 do
        if fields[i] == 'n' then present = present + messages(fields[i + 1]) end
      end
    end
    if #page < PAGE then break end
    from = '(' .. page[#page][1]
  end
  local halves = redis.call('HGETALL', partial)
  for i = 2, #halves, 2 do
    local acked, dead, expired = string.match(halves[i], '^(%d+):(%d+):(%d+):')
    present = present - acked - dead - expired
  end
  return present, entries
end

local function audit(keys)
  local present, entries = 0, 0
  for i = 2, #keys, 2 do
    local here, many = count(keys[i], keys[i + 1])
    present, entries = present + here, entries + many
  end
  local answer = { present, entries }
  for _, item in ipairs(redis.call('HGETALL', keys[1])) do
    answer[#answer + 1] = item
  end
  return answer
end

redis.register_function { function_name = 'swell_v1_audit', callback = audit, flags = { 'no-writes' } }
