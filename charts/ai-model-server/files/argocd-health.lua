-- The health of a ModelDeployment for Argo CD, which has none for kinds that it doesn't know.
-- In the ConfigMap argocd-cm: resource.customizations.health.aimodelserver.io_ModelDeployment
local health = {status = "Progressing", message = "The operator hasn't looked at it yet."}
local status = obj.status
if status == nil or status.conditions == nil or status.observedGeneration ~= obj.metadata.generation then
  return health
end
local conditions = {}
for _, condition in ipairs(status.conditions) do
  conditions[condition.type] = condition
end
local ready = conditions.Ready
if ready == nil then
  return health
end
local function is(name)
  return conditions[name] ~= nil and conditions[name].status == "True"
end
if ready.status == "False" and (ready.reason == "Suspended" or ready.reason == "Stopped") then
  health.status, health.message = "Suspended", ready.message
elseif is("Stalled") then
  health.status, health.message = "Degraded", conditions.Stalled.reason .. ": " .. conditions.Stalled.message
elseif is("Reconciling") then
  health.message = conditions.Reconciling.reason .. ": " .. conditions.Reconciling.message
elseif ready.status == "True" then
  health.status, health.message = "Healthy", ready.message
else
  health.message = ready.reason .. ": " .. ready.message
end
return health
