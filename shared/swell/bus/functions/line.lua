-- Whose turn it is when a shard is nearly full: room goes to producers in the order in which they were refused, so that
-- one that floods the shard cannot keep the others out. The key `line` has a line of text for each, the first first:
--   when it asked last (server time, ms), messages of its oldest batch, the key of its last sequence number
-- Only GET and SET, because whoever may append gets the rights to all that is called here.

-- A producer that did not ask for so long has given up, or died: those that wait ask every 0.1 s.
local FORGET_MS = 2000
-- No batch has more messages.
local LARGEST_BATCH = 256

-- Whether somebody may wait for room. Below that any batch finds some, so the line need not be looked at.
local function nearly_full(depth, limit)
  return 2 * (depth + LARGEST_BATCH) > limit
end

-- Those that wait, in order.
local function waiting_in(line, now)
  local waiting = {}
  for asked, wanted, producer in string.gmatch(redis.call('GET', line) or '', '(%d+) (%d+) ([^\n]+)\n') do
    if math.abs(now - asked) <= FORGET_MS then
      waiting[#waiting + 1] = { asked = asked, wanted = tonumber(wanted), producer = producer }
    end
  end
  return waiting
end

-- Messages of those ahead of a producer, and its place. One that does not wait yet is behind all.
local function ahead_of(waiting, producer)
  local ahead = 0
  for place, one in ipairs(waiting) do
    if one.producer == producer then
      return ahead, place
    end
    ahead = ahead + one.wanted
  end
  return ahead, #waiting + 1
end

local function keep_line(line, waiting)
  local text = {}
  for _, one in ipairs(waiting) do
    text[#text + 1] = one.asked .. ' ' .. one.wanted .. ' ' .. one.producer .. '\n'
  end
  redis.call('SET', line, table.concat(text), 'PX', #text > 0 and FORGET_MS or 1)
end

-- Whether a producer's batch may go, as far as the line is concerned: there is room for it and for all ahead of it. It
-- leaves the line then, or waits in it.
local function its_turn(line, producer, depth, count, limit)
  local now = math.floor(now_us() / 1000)
  local waiting = waiting_in(line, now)
  local ahead, place = ahead_of(waiting, producer)
  if depth + ahead + count <= limit then
    if waiting[place] then
      table.remove(waiting, place)
      keep_line(line, waiting)
    end
    return true
  end
  if count <= limit then
    waiting[place] = { asked = string.format('%.0f', now), wanted = count, producer = producer }
    keep_line(line, waiting)
  end
  return false
end
