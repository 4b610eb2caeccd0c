-- SPDX-License-Identifier: Apache-2.0
-- Load for wrk: POSTs one chat request again and again, and prints the result as one line of JSON.
--   wrk … -s post.lua URL -- REQUEST_BYTES ANSWER_BYTES [KEY [USERS]]
-- With USERS each request names one of so many end users, by chance.

local sentence = "Tell me what the second act of the play is about, and who is in it.\\n"

function init(args)
   local front = '{"model":"bench","metadata":{"answer_bytes":"' .. (args[2] or "1024") ..
      '"},"messages":[{"role":"user","content":"'
   local back = '"}]}'
   local room = tonumber(args[1] or "1024") - #front - #back
   local text = string.rep(sentence, math.floor(room / #sentence))
   wrk.method = "POST"
   wrk.headers["Content-Type"] = "application/json"
   if args[3] then
      wrk.headers["Authorization"] = "Bearer " .. args[3]
   end
   if args[4] then
      local users = tonumber(args[4])
      math.randomseed(os.time()) -- or each run would name the same ones, in the same order
      request = function()
         wrk.headers["X-User-ID"] = "user-" .. math.random(users)
         return wrk.format()
      end
   end
   wrk.body = front .. text .. string.rep(".", room - #text) .. back
end

function done(summary, latency)
   local e = summary.errors
   io.write(string.format('{"requests":%d,"seconds":%.6f,"errors":%d,"p50_us":%d,"p99_us":%d}\n',
      summary.requests, summary.duration / 1e6, e.connect + e.read + e.write + e.status + e.timeout,
      latency:percentile(50), latency:percentile(99)))
end
