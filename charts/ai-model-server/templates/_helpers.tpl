{{- define "ams.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "ams.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "ams.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "ams.selector" -}}
app.kubernetes.io/name: {{ include "ams.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "ams.labels" -}}
{{ include "ams.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: ai-model-server
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "ams.serviceAccount" -}}
{{- $account := (index .root.Values .component).serviceAccount -}}
{{- if $account.create -}}
{{- default (printf "%s-%s" (include "ams.fullname" .root) .component) $account.name -}}
{{- else -}}
{{- default "default" $account.name -}}
{{- end -}}
{{- end -}}

{{/* Values that --reuse-values kept of an older chart lack what has come since. */}}
{{- define "ams.checkValues" -}}
{{- range $name := list "auth" "redis" "usage" "tls" -}}
{{- if not (hasKey $.Values.gateway $name) -}}
{{- fail (printf "gateway.%s is missing: these are values of an older version of the chart; upgrade with --reset-then-reuse-values in place of --reuse-values" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Name of the Secret with the API keys; empty where there is none. */}}
{{- define "ams.keysSecret" -}}
{{- include "ams.checkValues" . -}}
{{- $auth := .Values.gateway.auth -}}
{{- if $auth.existingSecret -}}
{{- $auth.existingSecret -}}
{{- else if include "ams.makesFirstKey" . -}}
{{- include "ams.fullname" . }}-keys
{{- else if not (or $auth.anonymous $auth.jwt) -}}
{{- fail "gateway.auth: nobody could use the gateways: name an existingSecret, let createFirstKey or jwt be, or say anonymous: true" -}}
{{- end -}}
{{- end -}}

{{/* Whether the operator makes that Secret. */}}
{{- define "ams.makesFirstKey" -}}
{{- include "ams.checkValues" . -}}
{{- $auth := .Values.gateway.auth -}}
{{- if and $auth.createFirstKey (not $auth.existingSecret) (not $auth.anonymous) -}}
true
{{- end -}}
{{- end -}}

{{- define "ams.gatewayScheme" -}}
{{- include "ams.checkValues" . -}}
http{{ if .Values.gateway.tls.secretName }}s{{ end }}
{{- end -}}

{{/* The default port of the scheme is left out. */}}
{{- define "ams.gatewayURL" -}}
{{- $scheme := include "ams.gatewayScheme" . -}}
{{- $port := int .Values.gateway.service.port -}}
{{ $scheme }}://{{ include "ams.fullname" . }}-gateway.{{ .Release.Namespace }}.svc
{{- if ne $port (ternary 443 80 (eq $scheme "https")) }}:{{ $port }}{{ end }}
{{- end -}}

{{/*
Where the kubelet asks whether a gateway is well. It has no client certificate to show, and of several processes all must be
well, of which only one answers the other port.
*/}}
{{- define "ams.gatewayProbe" -}}
{{- if or .tls.clientCASecret (gt (int .processes) 1) -}}
port: metrics
{{- else if .tls.secretName -}}
port: http, scheme: HTTPS
{{- else -}}
port: http
{{- end -}}
{{- end -}}

{{- define "ams.image" -}}
{{ .image.repository }}:{{ default .root.Chart.AppVersion .image.tag }}{{ with .image.digest }}@{{ . }}{{ end }}
{{- end -}}

{{/* JSON: who may reach model pods, in whatever namespace they are. */}}
{{- define "ams.modelPeers" -}}
{{- $peers := list -}}
{{- range $component := list "gateway" "operator" -}}
{{- $labels := include "ams.selector" (dict "root" $ "component" $component) | fromYaml -}}
{{- $namespace := dict "matchLabels" (dict "kubernetes.io/metadata.name" $.Release.Namespace) -}}
{{- $peers = append $peers (dict "namespaceSelector" $namespace "podSelector" (dict "matchLabels" $labels)) -}}
{{- end -}}
{{- range $peer := .Values.networkPolicy.metricsFrom -}}
{{- /* A peer without namespaces means those of the policy's own namespace: here, the release's. */ -}}
{{- if and (hasKey $peer "podSelector") (not (hasKey $peer "namespaceSelector")) -}}
{{- $own := dict "matchLabels" (dict "kubernetes.io/metadata.name" $.Release.Namespace) -}}
{{- $peer = merge (dict "namespaceSelector" $own) $peer -}}
{{- end -}}
{{- $peers = append $peers $peer -}}
{{- end -}}
{{- toJson $peers -}}
{{- end -}}

{{- define "ams.podSecurity" -}}
runAsNonRoot: true
{{- range $field, $id := .Values.podSecurity }}
{{- if $id }}
{{ $field }}: {{ int $id }}
{{- end }}
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "ams.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "ams.scheduling" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* Whose the CRD in the cluster is, if not this release's; empty where there is none, or nobody can be asked. */}}
{{- define "ams.crdOwner" -}}
{{- with lookup "apiextensions.k8s.io/v1" "CustomResourceDefinition" "" "modeldeployments.aimodelserver.io" -}}
{{- $notes := default dict .metadata.annotations -}}
{{- $release := get $notes "meta.helm.sh/release-name" -}}
{{- $namespace := get $notes "meta.helm.sh/release-namespace" -}}
{{- if not $release -}}
kubectl
{{- else if or (ne $release $.Release.Name) (ne $namespace $.Release.Namespace) -}}
the release {{ $release }} in {{ $namespace }}
{{- end -}}
{{- end -}}
{{- end -}}
