{{/* The image of a service: registry/the0/NAME:TAG. The tag is the chart's own version unless values set one. */}}
{{- define "the0.image" -}}
{{- with .root.Values.image.registry }}{{ . }}/{{ end -}}
the0/{{ .name }}:{{ default .root.Chart.AppVersion .root.Values.image.tag }}
{{- end }}

{{/* The settings of a service as a JSON object of texts: its own before those of all. */}}
{{- define "the0.settings" -}}
{{- $texts := dict }}
{{- range $name, $value := merge (dict) (default (dict) .service.settings) .root.Values.settings }}
{{- $_ := set $texts $name (include "the0.text" $value) }}
{{- end }}
{{- if include "the0.tls" .root }}
{{- $_ := set $texts "TLS_MODE" .root.Values.tls.mode }}
{{- end }}
{{- toJson $texts }}
{{- end }}

{{/* A value as text. Helm reads all numbers as floats, and prints large ones with an exponent. */}}
{{- define "the0.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) }}{{ int64 . }}{{ else }}{{ . }}{{ end }}
{{- end }}

{{/* Empty without TLS between masters and workers. YAML reads a bare `off` as false. */}}
{{- define "the0.tls" -}}
{{- if not (has (toString .Values.tls.mode) (list "off" "false")) }}on{{ end }}
{{- end }}

{{/* What the component tls of the Kustomize folders adds. */}}
{{- define "the0.tls.env" -}}
{{- $names := dict "TLS_CA_FILE" "ca.crt" "TLS_CERT_FILE" "tls.crt" "TLS_KEY_FILE" "tls.key" }}
{{- $found := list }}
{{- if include "the0.tls" .root }}
{{- range $variable := keys $names | sortAlpha }}
{{- $found = append $found (dict "name" $variable "value" (printf "/etc/the0/tls/%s" (get $names $variable))) }}
{{- end }}
{{- end }}
{{- toJson $found }}
{{- end }}

{{- define "the0.tls.mounts" -}}
{{- if include "the0.tls" .root -}}
[{"name": "tls", "mountPath": "/etc/the0/tls", "readOnly": true}]
{{- else }}[]{{ end }}
{{- end }}

{{- define "the0.tls.volumes" -}}
{{- if include "the0.tls" .root -}}
[{"name": "tls", "secret": {"secretName": "{{ .name }}-{{ .component }}-tls", "defaultMode": 288}}]
{{- else }}[]{{ end }}
{{- end }}

{{/* kubelet's gRPC probes speak no TLS. */}}
{{- define "the0.probe.grpc" -}}
{{- if include "the0.tls" .root }}{}{{ else }}{"port": {{ int .port }}}{{ end }}
{{- end }}

{{- define "the0.probe.httpGet" -}}
{{- if include "the0.tls" .root }}{"path": "/grpcz", "port": "http"}{{ else }}{}{{ end }}
{{- end }}
